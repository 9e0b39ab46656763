"""From a job's name to the name of its result: one injective function, and numbers for what is taken."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

RESULT_MARKS = {"done": "", "failed": ".failed", "cancelled": ".cancelled"}

# 255 bytes is the limit of every common file system; this leaves room for `.cancelled~12345` and `.subtitle`.
MAX_BYTES = 220
MAX_FOLDERS_BYTES = 2000  # a path has 4095 in all; escaped, a name can be three times as long as in the inbox

JOB_SUFFIXES = (".yaml", ".yml", ".json")
MAX_GIVEN_BYTES = 243  # as a file's name it gets an extension, and a number where it is taken
_NOT_TYPED = frozenset({"Cc", "Cs", "Zl", "Zp"})

_FORBIDDEN = frozenset('<>:"/\\|?*%')
_JOINERS = frozenset("\u200c\u200d")  # part of correct spelling in Indic scripts and of emoji
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\.|$)", re.IGNORECASE)
_RESERVED = re.compile(r"(manifest|error|index\.html?)$", re.IGNORECASE)
_LOOKS_LIKE_OURS = re.compile(r"(\.(failed|cancelled)|~\d+)$", re.IGNORECASE)
_SHORTENED = "%~"  # no escape looks like this: after a `%` come two hex digits


def safe_name(name: str) -> str:
    """Turn one part of a job's name into a file name that every common system can hold.

    Ordinary names stay as they are. What can't stay is written as `%XX`, the bytes of its UTF-8 (as in a URL):
    control characters, `<>:"/\\|?*%`, bytes that are not UTF-8, a last dot or space, a first dot, the names of
    Windows devices, `manifest`, `error` and `index.html`, and endings that would look like this program's own
    (`.failed`, `~2`). A name over 220 bytes is cut and ends in `%~` and a hash of the whole.

    Different names give different results; the result is never empty.

    Args:
        name: One path part as Python gives it (bytes that are not UTF-8 as lone surrogates).
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
    """The same for the folders on the way to a result; so many of them that a path could get too long become one."""
    folders = [safe_name(part) for part in parts]
    return folders if len("/".join(folders).encode()) <= MAX_FOLDERS_BYTES else [safe_name("/".join(parts))]


def _allowed(char: str) -> bool:
    if char in _FORBIDDEN:
        return False
    return char in _JOINERS or unicodedata.category(char) not in _UNSAFE_CATEGORIES


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode(errors="surrogateescape"))


def checked_name(name: str) -> str:
    """Check a name that somebody gives to a job: a path such as `radio/news`; a job file's extension is taken off.

    Raises:
        ValueError: with a sentence, when no job can have this name.
    """
    for suffix in JOB_SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    parts = PurePosixPath(name).parts
    if not parts or name.endswith("/"):
        raise ValueError("a job needs a name")
    if name.startswith("/") or ".." in parts:
        raise ValueError("a name is a path such as radio/news, without a leading / and without ..")
    if any(unicodedata.category(char) in _NOT_TYPED for char in name):
        raise ValueError("a name is text without control characters")
    if any(part.startswith(".") for part in parts):
        raise ValueError("no part of a name begins with a dot, since such files are hidden")
    if any(len(os.fsencode(part)) > MAX_GIVEN_BYTES for part in parts):
        raise ValueError(f"each part of a name is at most {MAX_GIVEN_BYTES} bytes long")
    return "/".join(parts)


def numbered(name: str, number: int) -> str:
    """`hello`, `hello~2`, `hello~3`, …"""
    return name if number == 1 else f"{name}~{number}"


def numbered_document(name: str, number: int, count: int) -> str:
    """`hello-2` for the second of up to nine documents in a file, `hello-02` for that of ten and more."""
    return f"{name}-{number:0{len(str(count))}d}"


def folded(name: str) -> str:
    """What two names have in common that are one name on Windows or macOS: neither case nor Unicode form counts."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


MAX_NUMBERS = 8


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that puts `part-9` before `part-10`; of a name of a hundred numbers, the first few count as such."""
    parts = enumerate(re.split(r"(\d{1,18})", name, maxsplit=MAX_NUMBERS))
    return tuple((int(part), "") if place % 2 else (-1, part) for place, part in parts)
