"""A YAML reader for job files: the 1.2 core schema, built from parser events without recursion.

PyYAML implements YAML 1.1, where `no` is false and `12:30` is 750. Only its parser (libyaml's if compiled in) is used
here, to split the text into events; plain values are resolved by the tables of
https://yaml.org/spec/1.2.2/#103-core-schema. libyaml's composer recurses and crashes on deep nesting; its event parser
does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import yaml
from yaml import events

from files.printable import printable
from files.tree import TOO_LARGE, Bounds, Builder, Scalar, Tree, UnreadableText, Written, fraction, number

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_MARKER = re.compile(r"(?:\A|(?<=[\r\n]))(---|\.\.\.)(?=[ \t\r\n]|\Z)")
_CONTENT = re.compile(r"(?:\A|(?<=[\r\n]))(?![ \t]*(?:#|[\r\n]|\Z)|%|\.{3}(?=\s|\Z))[^\r\n]")
_TAG_LINE = re.compile(r"(?:(?:[ \t]*(?:#[^\r\n]*)?|%(?!TAG)[^\r\n]*)(?:\r\n?|\n))*+%TAG")
_NEWLINE = re.compile(r"\r\n?|\n")
_COMMENT = re.compile(r"[ \t]+(#[^\r\n]*)")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Line breaks in YAML 1.1 (and in libyaml), ordinary characters in 1.2. They are replaced by private-use characters for
# the scanner, and put back afterwards.
_NOT_BREAKS = re.compile("[\x85\u2028\u2029]")
_HIDE = {0x85: 0x10FFF0, 0x2028: 0x10FFF1, 0x2029: 0x10FFF2}
_SHOW = {hidden: shown for shown, hidden in _HIDE.items()}


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a YAML stream.

    Attributes:
        text: Complete, with directives, markers and comments.
        line: Number of its first line in the file, 1-based.
    """

    text: str
    line: int


def split(text: str) -> Iterator[YamlDocument]:
    """Split a stream into its documents, empty ones included.

    A line that starts with `---` or `...` always divides documents, even inside quotes and block scalars (YAML 1.2,
    rule 206 c-forbidden). So an invalid document does not hide the start of the next one.
    """
    begin, marked = 0, False
    line, counted = 1, 0
    for marker in chain(_MARKER.finditer(text), [None]):
        if marker is None:
            end = len(text)
        elif marker[1] == "...":
            newline = _NEWLINE.search(text, marker.end())
            end = newline.end() if newline else len(text)
        elif marked or _CONTENT.search(text, begin, marker.start()):
            end = marker.start()
        else:  # the first `---`, with only comments or directives before it: they belong to its document
            marked = True
            continue
        if marked or _CONTENT.search(text, begin, end):
            line += len(_NEWLINE.findall(text, counted, begin))
            counted = begin
            yield YamlDocument(text[begin:end], line)
        begin, marked = end, marker is not None and marker[1] == "---"


def read(piece: YamlDocument, bounds: Bounds) -> Tree | None:
    """Read one document.

    Returns:
        None if the document holds only comments.

    Raises:
        UnreadableText: Not YAML, too deep, too large, or its aliases expand to too much.
    """
    _check_characters(piece)
    if tag := _TAG_LINE.match(piece.text):
        raise UnreadableText("%TAG is not allowed in a job file", _line(piece, tag.end()), maybe_unfinished=False)
    builder = Builder(bounds)
    text = piece.text.translate(_HIDE) if _NOT_BREAKS.search(piece.text) else piece.text
    loader = _Loader(text)
    try:
        while (event := loader.get_event()) is not None:
            kind = type(event)
            if kind in _ENDS:
                builder.close()
            elif kind in _HANDLERS:
                _HANDLERS[kind](builder, event, piece)
    except yaml.YAMLError as error:
        raise _unreadable(error, piece) from None
    finally:
        loader.dispose()
    return builder.tree() if builder.line is not None else None


def _check_characters(piece: YamlDocument) -> None:
    if match := _FORBIDDEN.search(piece.text):
        raise UnreadableText(
            f"the character {printable(match[0])} is not allowed in YAML; "
            'write it as an escape in double quotes, such as "\\x1b"',
            _line(piece, match.start()),
        )


def _line(piece: YamlDocument, offset: int) -> int:
    return piece.line + len(_NEWLINE.findall(piece.text, 0, offset))


# Message of the YAML library -> what to fix in the job file.
_EXPLANATIONS = {
    "mapping values are not allowed in this context": "`: ` is not allowed here; put text with a colon in quotes",
    "found unexpected end of stream": "a quotation mark is not closed",
    "found a tab character that violates indentation": "indent with spaces, not with tabs",
    "did not find expected ',' or ']'": "a list in [ ] lacks a comma or the closing ]",
    "did not find expected ',' or '}'": "a mapping in { } lacks a comma or the closing }",
    "could not find expected ':'": "a key lacks its colon, or a continued line of text lacks its indentation",
    "did not find expected key": "a key was expected; check the indentation, and quotation marks inside quotes",
    "found unknown escape character": r"a `\` in double quotes starts an escape; use single quotes, or `/`",
    "did not find expected hexdecimal number": r"`\x`, `\u` and `\U` in double quotes need a hexadecimal number; "
    "use single quotes, or `/`",
    "did not find expected '-' indicator": "a list item was expected; check the indentation",
}


def _unreadable(error: yaml.YAMLError, piece: YamlDocument) -> UnreadableText:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    explanation = _EXPLANATIONS.get(what) or printable(f"{context}, {what}" if context else what, 200)
    if what == "found character that cannot start any token" and mark is not None:
        explanation = _bad_start(piece.text.splitlines()[mark.line : mark.line + 1], mark.column)
    line = mark.line + piece.line if mark is not None else piece.line
    return UnreadableText(f"this is not YAML: {explanation}", line)


def _bad_start(lines: list[str], column: int) -> str:
    char = "".join(lines)[column : column + 1]
    if char == "\t":
        return "indent with spaces, not with tabs"
    return f"text can't start with `{printable(char)}`; put it in quotes" if char else "put the text in quotes"


def _container(builder: Builder, event: Any, piece: YamlDocument) -> None:
    line = event.start_mark.line + piece.line
    if builder.wants_key:
        raise UnreadableText("a key must be text, not a list or a mapping", line, maybe_unfinished=False)
    mapping = isinstance(event, events.MappingStartEvent)
    _refuse_tag(builder, event.tag, line, "map" if mapping else "seq")
    builder.open({} if mapping else [], line, event.anchor)


def _alias(builder: Builder, event: Any, piece: YamlDocument) -> None:
    line = event.start_mark.line + piece.line
    if builder.wants_key:
        raise UnreadableText("a key must be text, not an alias", line, maybe_unfinished=False)
    builder.alias(event.anchor, line)


def _scalar(builder: Builder, event: Any, piece: YamlDocument) -> None:
    line = event.start_mark.line + piece.line
    text = event.value if event.value.isascii() else event.value.translate(_SHOW)
    if builder.wants_key:
        builder.key(text, line)
        _refuse_tag(builder, event.tag, line, "str")
        return
    value: Scalar = text
    written: Written | None = None
    if event.implicit[0] and not event.style:
        if not (text or builder.stack):  # the parser reports an empty document as an empty scalar
            return
        value, fault = plain(text)
        comment = _COMMENT.match(piece.text, event.end_mark.index)
        if fault:
            value = text  # a key that takes text accepts it
        if fault or (value is not None and (comment or value is not text)):
            written = Written(text, event.end_mark.line + piece.line, comment[1] if comment else "", fault)
    else:
        _refuse_tag(builder, event.tag, line, "str")
    builder.put(value, line, len(text), event.anchor, written)


_ENDS = frozenset({events.SequenceEndEvent, events.MappingEndEvent})
_HANDLERS: dict[type, Callable[[Builder, Any, YamlDocument], None]] = {
    events.ScalarEvent: _scalar,
    events.SequenceStartEvent: _container,
    events.MappingStartEvent: _container,
    events.AliasEvent: _alias,
}
_CORE = "tag:yaml.org,2002:"


def _refuse_tag(builder: Builder, tag: str | None, line: int, harmless: str) -> None:
    if tag is not None and tag not in ("!", _CORE + harmless):
        shown = printable(tag.replace(_CORE, "!!"), 60)
        builder.problem(f"the tag `{shown}` is not allowed in a job file; write the value without it", line)


_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((s + i for s in ("", "+") for i in (".inf", ".Inf", ".INF")), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_MAX_WORD = 5
_NUMBER_STARTS = frozenset("0123456789+-.")
_INT = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o([0-7]+)|0x([0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def plain(text: str) -> tuple[Scalar, str]:
    """Resolve a value without quotes and tag by the core schema.

    Returns:
        The value, and what is wrong with it ("" if nothing).
    """
    if len(text) <= _MAX_WORD and text in _WORDS:
        return _WORDS[text], ""
    if text[0] not in _NUMBER_STARTS:
        return text, ""
    value: Scalar
    if _INT.fullmatch(text):
        value = number(text)
    elif match := _OTHER_BASE.fullmatch(text):
        value = number(match[1] or match[2], 8 if match[1] else 16)
    elif _FLOAT.fullmatch(text):
        value = fraction(text)
    else:
        return text, ""
    return value, "" if value is not None else TOO_LARGE
