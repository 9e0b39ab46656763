"""Splits text into pieces: the text front-end of all engines.

Text is normalised to NFC without control characters, and split at pause marks, blank lines and sentence ends (by the
rules of its language). A sentence longer than the engine's maximum is split at clause marks, else at spaces, else
anywhere. No letter or digit is dropped. The time is linear in the length of any text.

A pause mark is `[pause 800ms]` or `[pause 1.5s]`, in any case, at most 60 s. Other text in brackets is spoken. An
invalid mark (`[pause]`, `[pause 3]`, `[pause 5 min]`) is an error; spoken aloud, it would be noticed too late.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

SENTENCE_PAUSE_MS = 300
PARAGRAPH_PAUSE_MS = 700
CLAUSE_PAUSE_MS = 150
PHRASE_PAUSE_MS = 50
MAX_PAUSE_MS = 60_000

_MARK = re.compile(r"\[\s*pause\s+(\d{1,9}(?:[.,]\d{1,9})?)\s*(ms|s)\s*\]", re.IGNORECASE)
_MEANT_AS_MARK = re.compile(r"\[\s*pause(?:\s*[-+]?[.,]?\d[^\[\]\n]{0,40})?\s*\]", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n(?:[^\S\n]*\n)+")
_LIST_ITEM = re.compile(r"\n(?=[^\S\n]*(?:[-*•‣▪–—]|\d{1,3}[.)])[^\S\n])")
_LIST_NUMBER = re.compile(r"\d{1,3}[.)]")
_BLOCK_CHARS = 1000
_CLAUSE_END = re.compile(r"[,;:)\]»”…](?=\s)|\s[–—-](?=\s)|[、，；：،؛]")

# Normalisation takes quadratic time in the number of combining marks on a letter. No language uses more than a few;
# the stream-safe text format of UAX #15 allows 30.
_MAX_MARKS = 30
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a segment that an engine renders as one chunk.

    Attributes:
        text: One line, NFC, with at least one letter or digit; or "" for a pause without text.
        pause_after_ms: Silence after it; 0 after the last piece, unless a pause mark follows.
    """

    text: str
    pause_after_ms: int


class PauseMark(ValueError):
    """An invalid pause mark; the message says how to write one."""


def pieces(text: str, language: str, max_chars: int) -> list[Piece]:
    """Split the text of a segment.

    Args:
        text: As in the job file.
        language: BCP-47; selects the rules for sentence ends.
        max_chars: Maximum length of a piece, at least 1.

    Raises:
        PauseMark: A mark has no length, an unknown unit, or more than 60 s.
    """
    made: list[Piece] = []
    for stretch, pause_ms in _between_marks(normal(text)):
        made += _cut(stretch, language, max_chars)
        if not pause_ms:
            continue
        last = made.pop() if made else Piece("", 0)  # a mark before any text: a pause alone
        made.append(replace(last, pause_after_ms=last.pause_after_ms + pause_ms))
    return made


def normal(text: str) -> str:
    """Normalise: NFC, every line end as `\\n`, no control or format characters, runs of blanks as one space."""
    text = text.replace("\r\n", "\n").translate(_LINE_ENDS)
    if not text.isprintable():
        text = "".join(map(_harmless, text))
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(_few_marks(text)))
    return re.sub(r"[^\S\n]+", " ", text)


def has_words(text: str) -> bool:
    """Whether there is something to speak: a letter or digit of any script, outside of pause marks."""
    return any(map(str.isalnum, _MARK.sub("", text)))


_LINE_ENDS = {ord(char): "\n" for char in "\r\v\f\x85\u2028"} | {0x2029: "\n\n"}


def _harmless(char: str) -> str:
    if char == "\n" or char.isprintable() or char in _JOINERS:
        return char
    category = unicodedata.category(char)
    # Format characters are dropped without a space: they occur inside words (soft hyphen, direction marks).
    return "" if category == "Cf" else char if category in ("Co", "Cn") else " "


def _few_marks(text: str) -> Iterator[str]:
    run = 0
    for char in text:
        run = run + 1 if unicodedata.combining(char) else 0
        if run <= _MAX_MARKS:
            yield char


def _between_marks(text: str) -> Iterator[tuple[str, int]]:
    """The text between pause marks, each part with the pause after it in ms; 0 after the last."""
    for sentence in wrong_marks(text):
        raise PauseMark(sentence)
    start = 0
    for mark in _MARK.finditer(text):
        yield text[start : mark.start()], _milliseconds(mark)
        start = mark.end()
    yield text[start:], 0


def wrong_marks(text: str) -> Iterator[str]:
    """Messages about the invalid pause marks in a text. Fast, and without a library: the daemon calls it."""
    for meant in _MEANT_AS_MARK.finditer(text):
        mark = _MARK.fullmatch(meant[0])
        if mark is None:
            yield f"{meant[0]!r} is not a valid pause mark; write [pause 800ms] or [pause 1.5s]"
        elif _milliseconds(mark) > MAX_PAUSE_MS:
            yield f"{meant[0]!r} is too long; a pause can be at most {MAX_PAUSE_MS // 1000} s"


def _milliseconds(mark: re.Match[str]) -> int:
    return round(float(mark[1].replace(",", ".")) * (1 if mark[2].lower() == "ms" else 1000))


def _cut(text: str, language: str, max_chars: int) -> list[Piece]:
    """Split text without pause marks into pieces with natural pauses; no pause after the last piece."""
    made: list[Piece] = []
    for words, pause_ms in _parts(text, language, max_chars):
        if has_words(words):
            made.append(Piece(words, pause_ms))
        elif made:  # punctuation alone, such as "* * *", only lengthens the pause before it
            made[-1] = replace(made[-1], pause_after_ms=max(made[-1].pause_after_ms, pause_ms))
    if made:
        made[-1] = replace(made[-1], pause_after_ms=0)
    return made


def _parts(text: str, language: str, max_chars: int) -> Iterator[tuple[str, int]]:
    for paragraph in _BLANK_LINE.split(text):
        yield from _ending_with(PARAGRAPH_PAUSE_MS, _sentences(paragraph, language, max_chars))


def _sentences(paragraph: str, language: str, max_chars: int) -> Iterator[tuple[str, int]]:
    for item in _LIST_ITEM.split(paragraph):
        number = ""
        for part in _sentences_in_blocks(item.replace("\n", " "), language, max(_BLOCK_CHARS, 2 * max_chars)):
            sentence, number = f"{number} {part}".strip(), ""
            if _LIST_NUMBER.fullmatch(sentence):
                number = sentence  # "3." starts a list item; it is not a sentence
                continue
            yield from _ending_with(SENTENCE_PAUSE_MS, _phrases(sentence, max_chars))
        if number:
            yield number, SENTENCE_PAUSE_MS


def _sentences_in_blocks(text: str, language: str, block_chars: int) -> Iterator[str]:
    """Split text into sentences block by block, because the library takes quadratic time.

    The last sentence of a block may continue after it, so the next block starts with that sentence. A sentence that
    fills a whole block is cut at its last space.
    """
    from sentencex import segment

    primary, start = language.partition("-")[0].lower(), 0
    while start < len(text):
        block = text[start : start + block_chars]
        sentences = segment(primary, block)
        if start + len(block) < len(text):
            sentences = sentences[:-1] or [block[: block.rfind(" ", block_chars // 2) + 1] or block]
        start += sum(map(len, sentences))
        yield from (" ".join(sentence.split()) for sentence in sentences)


def _phrases(sentence: str, max_chars: int) -> Iterator[tuple[str, int]]:
    """Split a sentence that is too long; one that is slightly too long is split near its middle."""
    start, end = 0, len(sentence)
    while end - start > max_chars:
        limit = min(max_chars, ceil(0.6 * (end - start)))  # else the last part would be a word or two
        cut, pause_ms = _place_to_cut(sentence[start : start + limit + 1], limit)
        yield sentence[start : start + cut].strip(), pause_ms
        start += cut
    yield sentence[start:].strip(), PHRASE_PAUSE_MS


def _place_to_cut(window: str, max_chars: int) -> tuple[int, int]:
    """Where to cut within `max_chars`, and the pause there. `window` is one character longer."""
    clauses = [end for match in _CLAUSE_END.finditer(window) if max_chars // 2 <= (end := match.end()) <= max_chars]
    if clauses:
        return clauses[-1], CLAUSE_PAUSE_MS
    space = window.rfind(" ", max(1, max_chars // 4))
    if space > 0:
        return space, PHRASE_PAUSE_MS
    cut = max_chars
    while cut > max(1, max_chars // 2) and (unicodedata.combining(window[cut]) or window[cut] in _JOINERS):
        cut -= 1  # keep an accent with its letter
    return cut, 0


def _ending_with(pause_ms: int, parts: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The same parts, with the pause after the last one replaced."""
    held: tuple[str, int] | None = None
    for part in parts:
        if held is not None:
            yield held
        held = part
    if held is not None:
        yield held[0], pause_ms
