"""A JSON reader for job files: strict RFC 8259, with the line of each value, without recursion.

`json.loads` recurses, keeps the last of two equal keys, accepts NaN and reports no lines, so only its string scanner
is used here. A file holds one object (one job) or an array of objects (several jobs).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # since Python 2.6, not in the stubs
from typing import Any

from files.printable import printable
from files.tree import TOO_LARGE, Bounds, Builder, Scalar, Tree, UnreadableText, Written, fraction, number

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:(\.[0-9]+)?([eE][-+]?[0-9]+)?)")
_WORD = re.compile(r"true|false|null")
_WORDS: dict[str, Scalar] = {"true": True, "false": False, "null": None}
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_NEWLINE = re.compile(r"\r\n?|\n")


def read(text: str, bounds: Bounds, max_jobs: int, *, in_yaml: bool = False) -> list[tuple[Tree, str]]:
    """Read a file. Returns each job with its part of the text.

    Args:
        text: The whole file, decoded.
        bounds: Apply to each job.
        max_jobs: A file with more jobs is refused.
        in_yaml: The JSON is in a YAML file: keys that take text also accept unquoted `true` and `false`, not only
            numbers.

    Raises:
        UnreadableText: Not JSON, neither an object nor an array, too deep, or too large.
    """
    reader = _Reader(text, in_yaml)
    at = reader.space(0)
    if text[at : at + 1] != "[":
        tree, end = reader.value(at, bounds)
        reader.nothing_after(end)
        return [(tree, text)]
    jobs: list[tuple[Tree, str]] = []
    at = reader.space(at + 1)
    if text[at : at + 1] == "]":
        reader.nothing_after(at + 1)
        return []
    while True:
        tree, end = reader.value(at, bounds)
        jobs.append((tree, text[at:end]))
        if len(jobs) > max_jobs:
            raise UnreadableText(
                f"more than {max_jobs} jobs in one file (limits.documents)", reader.line(at), maybe_unfinished=False
            )
        at = reader.space(end)
        if text[at : at + 1] == "]":
            reader.nothing_after(at + 1)
            return jobs
        at = reader.space(reader.expect(",", at, "`,` or `]` after a job"))


@dataclass(slots=True)
class _Reader:
    """The text and the offsets at which its lines start."""

    text: str
    in_yaml: bool
    starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.starts = [match.end() for match in _NEWLINE.finditer(self.text)]

    def line(self, at: int) -> int:
        return bisect_right(self.starts, at) + 1

    def space(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def expect(self, char: str, at: int, allowed: str) -> int:
        if self.text[at : at + 1] != char:
            raise self.wrong(at, allowed)
        return at + 1

    def wrong(self, at: int, allowed: str) -> UnreadableText:
        excerpt = f"`{printable(self.text[at : at + 20])}`" if at < len(self.text) else "the end of the file"
        return UnreadableText(f"this is not JSON: found {excerpt}, expected {allowed}", self.line(at))

    def nothing_after(self, at: int) -> None:
        at = self.space(at)
        if at < len(self.text):
            raise self.wrong(at, "the end of the file; write several jobs as [{…}, {…}]")

    def value(self, at: int, bounds: Bounds) -> tuple[Tree, int]:
        """Read a value with its content. Returns it and the offset of its end."""
        builder = Builder(bounds)
        at = self._begin(builder, at)
        while builder.stack:
            at = self._step(builder, self.space(at))
        return builder.tree(), at

    def _step(self, builder: Builder, at: int) -> int:
        """Read the next member or item of the innermost container, or its end."""
        container: Any = builder.stack[-1].value
        end, what = ("}", "member") if type(container) is dict else ("]", "item")
        if self.text[at : at + 1] == end:
            builder.close()
            return at + 1
        if builder.stack[-1].lines:
            at = self.space(self.expect(",", at, f"`,` or `{end}` after a {what}"))
        if what == "member":
            at = self._key(builder, at)
        return self._begin(builder, at)

    def _key(self, builder: Builder, at: int) -> int:
        self.expect('"', at, "a key in double quotes")
        key, end = self._string(builder, at)
        builder.key(key, self.line(at))
        return self.space(self.expect(":", self.space(end), "`:` after a key"))

    def _begin(self, builder: Builder, at: int) -> int:
        """Read a scalar, or the opening bracket of a container."""
        char, line = self.text[at : at + 1], self.line(at)
        if char == "{":
            builder.open({}, line)
            return at + 1
        if char == "[":
            builder.open([], line)
            return at + 1
        if char == '"':
            value, end = self._string(builder, at)
            builder.put(value, line, len(value))
            return end
        return self._literal(builder, at, line)

    def _literal(self, builder: Builder, at: int, line: int) -> int:
        if word := _WORD.match(self.text, at):
            is_text = self.in_yaml and word[0] != "null"
            builder.put(_WORDS[word[0]], line, len(word[0]), written=Written(word[0], line) if is_text else None)
            return word.end()
        match = _NUMBER.match(self.text, at)
        if match is None:
            raise self.wrong(at, "a value: text in double quotes, a number, true, false, null, { or [")
        value = fraction(match[0]) if match[1] or match[2] else number(match[0])
        fault = TOO_LARGE if value is None else ""
        # The digits stand in for a number that is too large: a key that takes text accepts them.
        builder.put(match[0] if fault else value, line, len(match[0]), written=Written(match[0], line, fault=fault))
        return match.end()

    def _string(self, builder: Builder, at: int) -> tuple[str, int]:
        try:
            value, end = scanstring(self.text, at + 1, True)
        except JSONDecodeError as error:
            reason = printable(error.msg[:1].lower() + error.msg[1:].removesuffix(" at"))
            raise UnreadableText(f"this is not JSON: {reason}", self.line(error.pos)) from None
        if not value.isascii() and _HALF_PAIR.search(value):
            builder.problem("an escape from \\uD800 to \\uDFFF is only valid in a pair", self.line(at))
            value = _HALF_PAIR.sub("\ufffd", value)
        return value, end
