"""Text from strangers made safe for a terminal, a log line, a JSON file and a shell."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
import unicodedata
from pathlib import Path


def printable(text: object, limit: int = 2000) -> str:
    """Make text from strangers safe for a terminal, a log line and a text file.

    Control characters, line and paragraph separators, bidirectional overrides and lone surrogates become
    `\\xNN` or `\\uNNNN`; tabs become a space; the rest stays. Longer text is cut at `limit` characters with `…`.
    """
    whole = str(text)
    if len(whole) <= limit and whole.isascii() and whole.isprintable():
        return whole
    shown = "".join(" " if char == "\t" else char if _harmless(char) else _escaped(char) for char in whole[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"


def wrapped(text: str, width: int) -> list[str]:
    """Printable text in lines of at most `width` characters. A `command` in backticks, and any word, stays whole."""
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


_COMMAND = re.compile(r"`[^`]+`[^\s\w]*")


def short_path(path: object) -> str:
    """A path as people here would write it: from the current folder where it is in that, else in full; printable."""
    text = printable(path, 5000)
    try:
        here = printable(Path.cwd(), 5000)
    except OSError:
        return text
    return text.removeprefix(f"{here}/") if here != "/" else text


def shell_word(path: Path) -> str:
    """A path as a word of a command that people can paste."""
    return shlex.quote(printable(path))


def real_paths(text: object) -> str:
    """Text in which paths that go through an open folder are shown as the paths that they are."""
    return _THROUGH_A_FOLDER.sub(_real_path, str(text))


_THROUGH_A_FOLDER = re.compile(r"/proc/self/fd/\d+(?=/)")


def _real_path(found: re.Match[str]) -> str:
    try:
        return os.readlink(found[0])
    except OSError:
        return found[0]


def printable_json(text: str) -> str:
    """The same for JSON that people read too: what steers a terminal can only stand inside its strings, and becomes
    an escape of theirs.
    """
    return _STEERS_A_TERMINAL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_STEERS_A_TERMINAL = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _harmless(char: str) -> bool:
    return (char.isascii() and char.isprintable()) or unicodedata.category(char) not in _UNSAFE_CATEGORIES


_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _escaped(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
