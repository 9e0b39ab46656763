"""Maps the name of a job to the name of its result: an injective escape, and a number if the name is taken."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

RESULT_MARKS = {"done": "", "failed": ".failed", "cancelled": ".cancelled"}

# Common file systems allow 255 bytes; this leaves room for `.cancelled~12345` and `.subtitle`.
MAX_BYTES = 220
MAX_FOLDERS_BYTES = 2000  # Linux allows 4095 for a whole path; escaping can triple the length of a name

JOB_SUFFIXES = (".yaml", ".yml", ".json")
MAX_JOB_NAME_BYTES = 243  # leaves room for an extension, and a number if the name is taken
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

_FORBIDDEN = frozenset('<>:"/\\|?*%')
_JOINERS = frozenset("\u200c\u200d")  # part of correct spelling in Indic scripts and of emoji
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\.|$)", re.IGNORECASE)
_RESERVED = re.compile(r"(manifest|error|index\.html?)$", re.IGNORECASE)
_LOOKS_LIKE_OURS = re.compile(r"(\.(failed|cancelled)|~\d+)$", re.IGNORECASE)
_SHORTENED = "%~"  # can't be an escape: those are a `%` and two hex digits


def safe_name(name: str) -> str:
    """Turn one part of a job's name into a file name that is valid on all common systems.

    Most names stay unchanged. The following is escaped as `%XX`, the bytes of its UTF-8, as in a URL: control
    characters, `<>:"/\\|?*%`, bytes that are not UTF-8, a leading dot, a trailing dot or space, and one character of
    names of Windows devices, of `manifest`, `error` and `index.html`, and of endings that voicespool itself adds
    (`.failed`, `~2`). A name over 220 bytes is cut, and `%~` and a hash of the whole name are appended.

    Different names give different results; the result is never empty.

    Args:
        name: One part of a path; bytes that are not UTF-8 as lone surrogates.
    """
    escaped = "".join(char if _allowed(char) else _percent(char) for char in name)
    if escaped[:1] == "." or _DEVICES.match(name) or _RESERVED.match(name):
        escaped = _percent(escaped[0]) + escaped[1:]
    if mark := _LOOKS_LIKE_OURS.search(escaped):
        escaped = escaped[: mark.start()] + _percent(escaped[mark.start()]) + escaped[mark.start() + 1 :]
    if escaped[-1:] in {".", " "}:
        escaped = escaped[:-1] + _percent(escaped[-1])
    if len(escaped.encode()) <= MAX_BYTES:
        return escaped or "%"
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=10).hexdigest()
    kept = escaped.encode()[: MAX_BYTES - len(_SHORTENED) - len(digest)].decode(errors="ignore")
    return kept + _SHORTENED + digest


def safe_folders(parts: Sequence[str]) -> list[str]:
    """Escape the folders of a result. If together they are too long for a path, they become one folder."""
    folders = [safe_name(part) for part in parts]
    return folders if len("/".join(folders).encode()) <= MAX_FOLDERS_BYTES else [safe_name("/".join(parts))]


def _allowed(char: str) -> bool:
    if char in _FORBIDDEN:
        return False
    return char in _JOINERS or unicodedata.category(char) not in _UNSAFE_CATEGORIES


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode(errors="surrogateescape"))


def checked_name(name: str) -> str:
    """Check a job's name, a path such as `radio/news`, and remove the extension of a job file.

    Raises:
        ValueError: No job can have this name; the message is a clause.
    """
    for suffix in JOB_SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    parts = PurePosixPath(name).parts
    if not parts or name.endswith("/"):
        raise ValueError("a job needs a name")
    if name.startswith("/") or ".." in parts:
        raise ValueError("a name is a path such as radio/news, without a leading / and without ..")
    if any(unicodedata.category(char) in _CONTROL_CATEGORIES for char in name):
        raise ValueError("control characters are not allowed in a name")
    if any(part.startswith(".") for part in parts):
        raise ValueError("no part of a name may start with a dot, as hidden files do")
    if any(len(os.fsencode(part)) > MAX_JOB_NAME_BYTES for part in parts):
        raise ValueError(f"each part of a name can have at most {MAX_JOB_NAME_BYTES} bytes")
    return "/".join(parts)


def numbered(name: str, number: int) -> str:
    """`hello`, `hello~2`, `hello~3`, …"""
    return name if number == 1 else f"{name}~{number}"


def numbered_document(name: str, number: int, count: int) -> str:
    """Name of a document in a file: `hello-2`, or `hello-02` if the file has ten or more."""
    return f"{name}-{number:0{len(str(count))}d}"


def folded(name: str) -> str:
    """Equal for names that are the same on Windows or macOS, which ignore case or Unicode normalisation."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


MAX_NUMBERS = 8
_NUMBER = re.compile(r"(\d{1,18})")


def natural(name: str) -> tuple[str | int, ...]:
    """Sort key for natural order: `part-9` before `part-10`. Only the first 8 numbers of a name count as numbers."""
    parts: list[str | int] = [*_NUMBER.split(name, MAX_NUMBERS)]  # text, number, text, number, …, text
    parts[1::2] = map(int, parts[1::2])
    return tuple(parts)
