"""Makes untrusted text safe for a terminal, a log line, a JSON file and a shell."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
import unicodedata
from pathlib import Path


def printable(text: object, limit: int = 2000) -> str:
    """Make untrusted text safe for a terminal, a log line and a text file.

    Control and format characters, line and paragraph separators and lone surrogates become `\\xNN` or `\\uNNNN`; a tab
    becomes a space. Text longer than `limit` characters is cut and ends in `…`.
    """
    whole = str(text)
    if len(whole) <= limit and whole.isascii() and whole.isprintable():
        return whole
    shown = "".join(" " if char == "\t" else char if _harmless(char) else _escaped(char) for char in whole[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"


def wrapped(text: str, width: int) -> list[str]:
    """Wrap printable text at `width` characters. Words and `commands in backticks` are never broken."""
    whole = _COMMAND.sub(lambda match: match[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


_COMMAND = re.compile(r"`[^`]+`[^\s\w]*")


def short_path(path: object) -> str:
    """A printable path, relative to the current folder if it is inside it."""
    text = printable(path, 5000)
    try:
        here = printable(Path.cwd(), 5000)
    except OSError:  # the current folder was removed
        return text
    return text.removeprefix(f"{here}/") if here != "/" else text


def shell_word(path: Path) -> str:
    """A path, quoted for a command that people can paste."""
    return shlex.quote(printable(path))


def real_paths(text: object) -> str:
    """Replace `/proc/self/fd/N/` in a text by the path of that open folder."""
    return _THROUGH_A_FOLDER.sub(_real_path, str(text))


_THROUGH_A_FOLDER = re.compile(r"/proc/self/fd/\d+(?=/)")


def _real_path(match: re.Match[str]) -> str:
    try:
        return os.readlink(match[0])
    except OSError:
        return match[0]


def printable_json(text: str) -> str:
    """Make JSON safe for a terminal: control characters, which can only occur inside its strings, become `\\uNNNN`."""
    return _CONTROLS_A_TERMINAL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


_CONTROLS_A_TERMINAL = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _harmless(char: str) -> bool:
    return (char.isascii() and char.isprintable()) or unicodedata.category(char) not in _UNSAFE_CATEGORIES


_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _escaped(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
