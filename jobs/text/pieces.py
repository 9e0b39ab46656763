"""Text to chunks: one front-end for all engines.

Text becomes NFC on one line, without control characters; it is cut at pause marks, blank lines, sentence ends (by the
rules of its language), and, where a sentence is longer than the engine takes, at clause marks, then at spaces, then
anywhere. No letter or digit is ever lost, and the time taken grows with the length alone, whatever is in the text.

A pause mark is `[pause 800ms]` or `[pause 1.5s]`, in any letter case, at most 60 s. Other text in brackets is spoken.
Something that was clearly meant as a mark but is none (`[pause]`, `[pause 3]`, `[pause 5 min]`) is an error that says
how to write it: spoken aloud, it would be noticed too late.
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

# Marks above a letter are put in order by a method whose time grows with the square of their number; no language
# has more than a few (UAX #15, stream-safe text, allows 30).
_MAX_MARKS = 30
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a passage that an engine speaks at once.

    Attributes:
        text: One line, NFC, with a letter or digit in it; or "" for a pause alone.
        pause_after_ms: Silence that follows; 0 after the last piece unless a mark asks for it.
    """

    text: str
    pause_after_ms: int


class PauseMark(ValueError):
    """A pause mark that is none; the message says how to write it."""


def pieces(text: str, language: str, max_chars: int) -> list[Piece]:
    """Cut a passage.

    Args:
        text: As it stands in the job.
        language: BCP-47; decides where sentences end.
        max_chars: Of one piece, at least 1.

    Raises:
        PauseMark: a mark without a length, with another unit, or above a minute.
    """
    made: list[Piece] = []
    for stretch, pause_ms in _between_marks(normal(text)):
        made += _cut(stretch, language, max_chars)
        if not pause_ms:
            continue
        last = made.pop() if made else Piece("", 0)
        made.append(replace(last, pause_after_ms=last.pause_after_ms + pause_ms))
    return made


def normal(text: str) -> str:
    """NFC, newlines as `\\n`, without control and format characters; runs of blanks become one space."""
    text = text.replace("\r\n", "\n").translate(_LINE_ENDS)
    if not text.isprintable():
        text = "".join(map(_harmless, text))
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(_few_marks(text)))
    return re.sub(r"[^\S\n]+", " ", text)


def has_words(text: str) -> bool:
    """Whether there is anything to say: a letter or a digit of any script, outside of pause marks."""
    return any(map(str.isalnum, _MARK.sub("", text)))


_LINE_ENDS = {ord(char): "\n" for char in "\r\v\f\x85\u2028"} | {0x2029: "\n\n"}


def _harmless(char: str) -> str:
    if char == "\n" or char.isprintable() or char in _JOINERS:
        return char
    category = unicodedata.category(char)
    return "" if category == "Cf" else char if category in ("Co", "Cn") else " "


def _few_marks(text: str) -> Iterator[str]:
    run = 0
    for char in text:
        run = run + 1 if unicodedata.combining(char) else 0
        if run <= _MAX_MARKS:
            yield char


def _between_marks(text: str) -> Iterator[tuple[str, int]]:
    """Each stretch of text with the pause that its mark asks for, in ms; 0 after the last."""
    for sentence in wrong_marks(text):
        raise PauseMark(sentence)
    start = 0
    for mark in _MARK.finditer(text):
        yield text[start : mark.start()], _milliseconds(mark)
        start = mark.end()
    yield text[start:], 0


def wrong_marks(text: str) -> Iterator[str]:
    """What in a text was meant as a pause mark and is none, each in a sentence. Cheap; needs no library."""
    for found in _MEANT_AS_MARK.finditer(text):
        mark = _MARK.fullmatch(found[0])
        if mark is None:
            yield f"{found[0]!r} is no pause mark; write [pause 800ms] or [pause 1.5s]"
        elif _milliseconds(mark) > MAX_PAUSE_MS:
            yield f"{found[0]!r} is too long; a pause takes at most {MAX_PAUSE_MS // 1000} s"


def _milliseconds(mark: re.Match[str]) -> int:
    return round(float(mark[1].replace(",", ".")) * (1 if mark[2].lower() == "ms" else 1000))


def _cut(text: str, language: str, max_chars: int) -> list[Piece]:
    """Cut text without marks into pieces with the pauses that speech has there by nature; none after the last."""
    made: list[Piece] = []
    for words, pause_ms in _parts(text, language, max_chars):
        if has_words(words):
            made.append(Piece(words, pause_ms))
        elif made:
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
        for found in _sentences_in_blocks(item.replace("\n", " "), language, max(_BLOCK_CHARS, 2 * max_chars)):
            sentence, number = f"{number} {found}".strip(), ""
            if _LIST_NUMBER.fullmatch(sentence):
                number = sentence  # "3." is how the item begins, not a sentence
                continue
            yield from _ending_with(SENTENCE_PAUSE_MS, _phrases(sentence, max_chars))
        if number:
            yield number, SENTENCE_PAUSE_MS


def _sentences_in_blocks(text: str, language: str, block_chars: int) -> Iterator[str]:
    """Sentences, found in one block after the other: the library's time grows with the square of the length.

    The last sentence of a block may go on, so that the next block begins with it; one that fills a whole block is cut
    at its last space.
    """
    from sentencex import segment

    primary, start = language.partition("-")[0].lower(), 0
    while start < len(text):
        block = text[start : start + block_chars]
        found = segment(primary, block)
        if start + len(block) < len(text):
            found = found[:-1] or [block[: block.rfind(" ", block_chars // 2) + 1] or block]
        start += sum(map(len, found))
        yield from (" ".join(sentence.split()) for sentence in found)


def _phrases(sentence: str, max_chars: int) -> Iterator[tuple[str, int]]:
    """Cut a sentence that is too long; one that is not much too long, near its middle."""
    start, end = 0, len(sentence)
    while end - start > max_chars:
        most = min(max_chars, ceil(0.6 * (end - start)))
        cut, pause_ms = _place_to_cut(sentence[start : start + most + 1], most)
        yield sentence[start : start + cut].strip(), pause_ms
        start += cut
    yield sentence[start:].strip(), PHRASE_PAUSE_MS


def _place_to_cut(window: str, most: int) -> tuple[int, int]:
    """Where to cut within `most` characters, and the pause that belongs there. `window` shows one character more."""
    clauses = [found.end() for found in _CLAUSE_END.finditer(window) if most // 2 <= found.end() <= most]
    if clauses:
        return clauses[-1], CLAUSE_PAUSE_MS
    space = window.rfind(" ", max(1, most // 4))
    if space > 0:
        return space, PHRASE_PAUSE_MS
    cut = most
    while cut > max(1, most // 2) and (unicodedata.combining(window[cut]) or window[cut] in _JOINERS):
        cut -= 1  # an accent stays with its letter
    return cut, 0


def _ending_with(pause_ms: int, parts: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The same parts, the last one followed by a pause of this length."""
    held: tuple[str, int] | None = None
    for part in parts:
        if held is not None:
            yield held
        held = part
    if held is not None:
        yield held[0], pause_ms
