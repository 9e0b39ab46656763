"""The plain data of a parsed job file, with the line of every key.

Both readers (`yaml12`, `json_text`) build it without recursion, and refuse data that is too deep or too large before
recursive code sees it. A container can appear in several places (YAML aliases), so lines are stored by container, not
by path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from files.printable import printable

Scalar = str | int | float | bool | None
Path = tuple[str | int, ...]

TOO_LARGE = "the number is too large; put it in quotes if it is text"
_MAX_NUMBER_CHARS = 300


@dataclass(frozen=True, slots=True)
class Bounds:
    """Upper bounds for one document.

    Attributes:
        depth: Nested lists and mappings, with aliases expanded.
        values: Values and keys.
        aliases: YAML aliases.
        alias_chars: Characters of all aliases, fully expanded; each value counts 8 more.
        problems: Reported problems of one document; further ones are only counted.
        file_problems: Reported problems of all documents of a file, approximately.
    """

    depth: int = 32
    values: int = 100_000
    aliases: int = 1_000
    alias_chars: int = 1 << 20
    problems: int = 100
    file_problems: int = 1_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a job file.

    Attributes:
        message: What was found and what is allowed, in one printable sentence.
        key: Dotted path (`segments[2].text`), or "" for the whole file.
        line: 1-based line in the file, or None.
    """

    message: str
    key: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"


class UnreadableText(Exception):
    """A text can't be read.

    Args:
        message: Printable.
        line: 1-based.
        maybe_unfinished: Whether more bytes could fix it.
    """

    def __init__(self, message: str, line: int | None, *, maybe_unfinished: bool = True) -> None:
        super().__init__(message)
        self.problem = Problem(message, line=line)
        self.maybe_unfinished = maybe_unfinished


@dataclass(frozen=True, slots=True)
class Written:
    """The source text of an unquoted value, for keys that take text.

    Attributes:
        text: Such as `3.10` (the number is 3.1), `no`, `1e3`.
        line: Its last line, 1-based.
        comment: The comment that follows it on that line, with its `#`; "" if none.
        fault: Why it is invalid for a key that does not take text; "" if valid.
    """

    text: str
    line: int
    comment: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Tree:
    """One document.

    Attributes:
        value: Dicts with text keys, lists, text, int, float, bool, None.
        line: Where it starts, 1-based.
        lines: id() of a container in `value` -> the line of each of its keys (dict) or items (list).
        problems: What is wrong although it could be read: duplicate keys, tags, numbers that are too large.
        written: id() of a container -> keys or items whose value differs from their source text -> that text.
    """

    value: Any
    line: int
    lines: Mapping[int, Mapping[str, int] | Sequence[int]]
    problems: tuple[Problem, ...] = ()
    written: Mapping[int, Mapping[str | int, Written]] = field(default_factory=dict)

    def line_of(self, path: Path) -> int:
        """The line of a key or item; if it is not in the file, of its nearest ancestor."""
        line, value = self.line, self.value
        for step in path:
            try:
                line = self.lines[id(value)][step]  # type: ignore[index]
                value = value[step]
            except (KeyError, IndexError, TypeError):
                break
        return line


@dataclass(slots=True)
class _Frame:
    """A container being read; `height`: levels of nesting inside it; `chars`: what an alias to it counts."""

    value: Any
    lines: Any
    anchor: str | None = None
    key: str | None = None
    height: int = 1
    chars: int = 8


@dataclass(slots=True)
class Builder:
    """Builds a tree from a reader's calls, in the order of the file: `open`, `key`, `put`, `alias`, `close`."""

    bounds: Bounds
    root: Any = None
    line: int | None = None
    problems: list[Problem] = field(default_factory=list)
    lines: dict[int, Any] = field(default_factory=dict)
    stack: list[_Frame] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int, int, Written | None] | None] = field(default_factory=dict)
    written: dict[int, dict[str | int, Written]] = field(default_factory=dict)
    count: int = 0
    aliases: int = 0
    alias_chars: int = 0

    def tree(self) -> Tree:
        return Tree(self.root, self.line or 1, self.lines, tuple(self.problems), self.written)

    @property
    def wants_key(self) -> bool:
        """Whether a key of a mapping is expected next."""
        return bool(self.stack) and self.stack[-1].key is None and type(self.stack[-1].value) is dict

    def key(self, key: str, line: int) -> None:
        """Set the key of the next value. A duplicate key is a problem; its first value is kept."""
        frame = self.stack[-1]
        self._counted(line)
        frame.chars += len(key)
        frame.key = key
        if key in frame.value:
            first = frame.lines[key]
            where = "" if first == line else f", in lines {first} and {line}"
            self.problem(f"`{printable(key, 60)}` is given twice{where}; give it once", line)
        else:
            frame.lines[key] = line

    def put(
        self, value: Scalar, line: int, chars: int, anchor: str | None = None, written: Written | None = None
    ) -> None:
        """Add a scalar; `chars` is its length in the file, `written` its source text if that differs from the value."""
        self._counted(line)
        if anchor is not None:
            self.anchors[anchor] = (value, 0, chars + 8, written)
        self._note(written, line)
        self._place(value, line, 0, chars + 8)

    def open(self, value: dict[str, Any] | list[Any], line: int, anchor: str | None = None) -> None:
        """Start a mapping or list; its content follows until `close`."""
        self._counted(line)
        self._deep_enough(1, line)
        if anchor is not None:
            self.anchors[anchor] = None  # not complete: an alias to it from inside is an error
        lines: Any = {} if type(value) is dict else []
        self.lines[id(value)] = lines
        self._attach(value, line)
        self.stack.append(_Frame(value, lines, anchor))

    def close(self) -> None:
        frame = self.stack.pop()
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (frame.value, frame.height, frame.chars, None)
        if self.stack:
            self._grown(frame.height, frame.chars)
            self.stack[-1].key = None

    def alias(self, name: str, line: int) -> None:
        """Add the value of an anchor again."""
        shown = printable(name, 60)
        self.aliases += 1
        if self.aliases > self.bounds.aliases:
            raise UnreadableText(f"more than {self.bounds.aliases} aliases", line, maybe_unfinished=False)
        if name not in self.anchors:
            raise UnreadableText(f"alias `*{shown}` has no anchor `&{shown}` above it", line)
        target = self.anchors[name]
        if target is None:
            raise UnreadableText(f"alias `*{shown}` is inside its own anchor", line, maybe_unfinished=False)
        value, height, chars, written = target
        self.alias_chars += chars
        if self.alias_chars > self.bounds.alias_chars:
            message = f"aliases expand to more than {self.bounds.alias_chars} characters"
            raise UnreadableText(message, line, maybe_unfinished=False)
        self._deep_enough(height, line)
        self._note(written, line)
        self._place(value, line, height, chars)

    def problem(self, message: str, line: int) -> None:
        """Add a problem of the next value."""
        if len(self.problems) < self.bounds.problems:
            self.problems.append(Problem(message, dotted(self.path()), line))

    def path(self) -> Path:
        """The path of the next value."""
        steps: list[str | int] = []
        for frame in self.stack:
            if type(frame.value) is list:
                steps.append(len(frame.value) - (frame is not self.stack[-1]))
            elif frame.key is not None:
                steps.append(frame.key)
        return tuple(steps)

    def _note(self, written: Written | None, line: int) -> None:
        """Keep the source text of the next value, unless its key is a duplicate."""
        if written is None:
            return
        if written.fault:
            self.problem(written.fault, line)
        if not self.stack:
            return
        frame = self.stack[-1]
        step = len(frame.value) if frame.key is None else frame.key
        if frame.key is None or frame.key not in frame.value:
            self.written.setdefault(id(frame.value), {})[step] = written

    def _place(self, value: Any, line: int, height: int, chars: int) -> None:
        self._attach(value, line)
        if self.stack:
            self._grown(height, chars)
            self.stack[-1].key = None

    def _attach(self, value: Any, line: int) -> None:
        if not self.stack:
            self.root, self.line = value, line
            return
        frame = self.stack[-1]
        if frame.key is not None:
            frame.value.setdefault(frame.key, value)
        else:
            frame.value.append(value)
            frame.lines.append(line)

    def _grown(self, height: int, chars: int) -> None:
        frame = self.stack[-1]
        frame.height = max(frame.height, height + 1)
        frame.chars += chars

    def _counted(self, line: int) -> None:
        self.count += 1
        if self.count > self.bounds.values:
            raise UnreadableText(f"more than {self.bounds.values} values in one job", line, maybe_unfinished=False)

    def _deep_enough(self, height: int, line: int) -> None:
        if len(self.stack) + height > self.bounds.depth:
            message = f"lists and mappings are nested more than {self.bounds.depth} levels deep"
            raise UnreadableText(message, line, maybe_unfinished=False)


def number(text: str, base: int = 10) -> int | None:
    """Parse an integer; None if it has too many digits (int() takes quadratic time)."""
    return int(text, base) if len(text) <= _MAX_NUMBER_CHARS else None


def fraction(text: str) -> float | None:
    """Parse a number with a point or an exponent; None if it is too long, or too large for a float."""
    value = float(text) if len(text) <= _MAX_NUMBER_CHARS else inf
    return None if value in (inf, -inf) else value


def dotted(path: Path) -> str:
    """`("segments", 1, "text")` as `segments[1].text`, printable."""
    shown = ""
    for step in path:
        shown += f"[{step}]" if isinstance(step, int) else f".{printable(step, 60)}" if shown else printable(step, 60)
    return shown
