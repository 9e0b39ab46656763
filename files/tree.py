"""What a job file's text says, before anybody asks what it means: plain data, with the line of every key.

Both readers (`yaml12`, `json_text`) build it without recursion and refuse what is too deep or too much before
anything recursive sees it. A container may appear in several places (YAML aliases), so lines are kept by
container, not by path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from files.printable import printable

Scalar = str | int | float | bool | None
Path = tuple[str | int, ...]

TOO_LARGE = "this number is too large; if text is meant, put it in quotes"
_MAX_NUMBER = 300


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one document may hold.

    Attributes:
        depth: Lists and mappings inside each other, aliases followed.
        values: Values and keys written in it.
        aliases: YAML aliases in it.
        alias_chars: Characters that all its aliases stand for, followed to the end; a mapping costs 8 more.
        problems: Of one document; more are counted, not shown.
        file_problems: Of all documents of a file together, about.
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
        message: What was found and what is allowed, one sentence, safe to print.
        key: Dotted path (`segments[2].text`), or "" for the file as a whole.
        line: 1-based line in the file, or None where there is none.
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
        message: Safe to print.
        line: 1-based.
        maybe_unfinished: Whether more bytes could mend it.
    """

    def __init__(self, message: str, line: int | None, *, maybe_unfinished: bool = True) -> None:
        super().__init__(message)
        self.problem = Problem(message, line=line)
        self.maybe_unfinished = maybe_unfinished


@dataclass(frozen=True, slots=True)
class Written:
    """A value without quotes, as it stands in the file: a key that takes text means this.

    Attributes:
        text: `3.10` and not 3.1, `no`, `1e3`.
        line: The one that it ends in, 1-based.
        comment: What follows it in that line and is no part of it, with its `#`; "" for nothing.
        fault: Why it is no value where it is not text; "" when it is one.
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
        lines: id of a container in `value` -> the line of each of its keys (dict) or items (list).
        problems: What is wrong in it though it could be read: keys given twice, tags, endless numbers.
        written: id of a container -> its keys or items that would be others if they were text -> what stands there.
    """

    value: Any
    line: int
    lines: Mapping[int, Mapping[str, int] | Sequence[int]]
    problems: tuple[Problem, ...] = ()
    written: Mapping[int, Mapping[str | int, Written]] = field(default_factory=dict)

    def line_of(self, path: Path) -> int:
        """The line of a key or item; of the nearest one above it when it is not in the file."""
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
    """A container that is being read; `height`: how deep it is inside; `chars`: what an alias to it costs."""

    value: Any
    lines: Any
    anchor: str | None = None
    key: str | None = None
    height: int = 1
    chars: int = 8


@dataclass(slots=True)
class Builder:
    """Puts a tree together from what a reader finds, in order: `open`, `key`, `put`, `alias`, `close`."""

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
        """Whether the next thing is a key of a mapping."""
        return bool(self.stack) and self.stack[-1].key is None and type(self.stack[-1].value) is dict

    def key(self, key: str, line: int) -> None:
        """The key of the next value. A second one of the same name is a problem, and the first one counts."""
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
        """A value that holds no others; `chars` is how long it is written, `written` what it would be as text."""
        self._counted(line)
        if anchor is not None:
            self.anchors[anchor] = (value, 0, chars + 8, written)
        self._note(written, line)
        self._place(value, line, 0, chars + 8)

    def open(self, value: dict[str, Any] | list[Any], line: int, anchor: str | None = None) -> None:
        """A mapping or list begins; its content follows until `close`."""
        self._counted(line)
        self._deep_enough(1, line)
        if anchor is not None:
            self.anchors[anchor] = None
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
        """The same value as the anchor of that name."""
        shown = printable(name, 60)
        self.aliases += 1
        if self.aliases > self.bounds.aliases:
            raise UnreadableText(f"more than {self.bounds.aliases} aliases", line, maybe_unfinished=False)
        if name not in self.anchors:
            raise UnreadableText(f"`*{shown}` stands for `&{shown}`, which is not above it", line)
        target = self.anchors[name]
        if target is None:
            raise UnreadableText(f"`*{shown}` stands inside of what it stands for", line, maybe_unfinished=False)
        value, height, chars, written = target
        self.alias_chars += chars
        if self.alias_chars > self.bounds.alias_chars:
            message = f"its aliases stand for more than {self.bounds.alias_chars} characters"
            raise UnreadableText(message, line, maybe_unfinished=False)
        self._deep_enough(height, line)
        self._note(written, line)
        self._place(value, line, height, chars)

    def problem(self, message: str, line: int) -> None:
        """Note what is wrong with the value that is about to be put (or opened)."""
        if len(self.problems) < self.bounds.problems:
            self.problems.append(Problem(message, dotted(self.path()), line))

    def path(self) -> Path:
        """The place of the value that comes next."""
        steps: list[str | int] = []
        for frame in self.stack:
            if type(frame.value) is list:
                steps.append(len(frame.value) - (frame is not self.stack[-1]))
            elif frame.key is not None:
                steps.append(frame.key)
        return tuple(steps)

    def _note(self, written: Written | None, line: int) -> None:
        """Keep what stands there for the value that comes next, unless its key was given before."""
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
            message = f"lists and mappings inside each other more than {self.bounds.depth} deep"
            raise UnreadableText(message, line, maybe_unfinished=False)


def number(text: str, base: int = 10) -> int | None:
    """A whole number, or None when it has so many digits that reading it would be an attack."""
    return int(text, base) if len(text) <= _MAX_NUMBER else None


def fraction(text: str) -> float | None:
    """A number with a point or an exponent; None when it is too long or too large for a float."""
    value = float(text) if len(text) <= _MAX_NUMBER else inf
    return None if value in (inf, -inf) else value


def dotted(path: Path) -> str:
    """`("segments", 1, "text")` as `segments[1].text`, safe to print."""
    shown = ""
    for step in path:
        shown += f"[{step}]" if isinstance(step, int) else f".{printable(step, 60)}" if shown else printable(step, 60)
    return shown
