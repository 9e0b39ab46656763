"""Text to chunks: nothing is lost, nothing is too long, pauses are where they belong, and time stays linear."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.text.pieces import (
    CLAUSE_PAUSE_MS,
    PARAGRAPH_PAUSE_MS,
    SENTENCE_PAUSE_MS,
    PauseMark,
    Piece,
    has_words,
    normal,
    pieces,
)

WORDS = st.text(alphabet=st.characters(exclude_characters="[]"), max_size=400)
PROSE = st.lists(
    st.sampled_from(
        [
            "Dr.",
            "Sra.",
            "R$ 5,00",
            "art. 5º",
            "fim.",
            "Olá,",
            "你好。",
            "a\u0301",
            "नमस्ते",
            "😀",
            "\n\n",
            "\n- x",
            "…",
            '"é"',
            "x" * 30,
        ]
    ),
    max_size=60,
).map(" ".join)


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


@given(st.one_of(WORDS, PROSE), st.sampled_from(["en", "pt-BR", "zh", "xx"]), st.integers(1, 300))
@example("a" * 1000 + "b", "en", 300)
@example("Dr. " * 700 + "x", "pt-BR", 12)
@example("e\u0301" * 50, "fr", 7)
def test_no_letter_is_lost_or_moved(text: str, language: str, max_chars: int) -> None:
    """Joined pieces hold every letter and digit of the text, in order."""
    made = pieces(text, language, max_chars)
    assert letters("".join(piece.text for piece in made)) == letters(normal(text))


@given(st.one_of(WORDS, PROSE), st.integers(1, 300))
def test_every_piece_is_one_the_engine_can_take(text: str, max_chars: int) -> None:
    """Pieces are short enough, NFC, one line, with words in them, without control characters."""
    for piece in pieces(text, "pt-BR", max_chars):
        assert 0 < len(piece.text) <= max_chars
        assert unicodedata.is_normalized("NFC", piece.text)
        assert piece.text == " ".join(piece.text.split())
        assert has_words(piece.text)
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in piece.text)


def test_words_stay_whole_where_they_fit() -> None:
    """A long sentence is cut between words only."""
    text = " ".join(f"word{number}" for number in range(200))
    made = pieces(text, "en", 50)
    assert " ".join(piece.text for piece in made) == text


def test_portuguese_abbreviations_end_no_sentence() -> None:
    """Dr., Sra., R$ and art. 5º are inside a sentence."""
    text = "O Dr. Silva e a Sra. Lima pagaram R$ 5,00. Veja o art. 5º da lei. Fim!"
    assert [piece.text for piece in pieces(text, "pt-BR", 400)] == [
        "O Dr. Silva e a Sra. Lima pagaram R$ 5,00.",
        "Veja o art. 5º da lei.",
        "Fim!",
    ]


def test_a_long_sentence_is_cut_at_a_clause_near_its_middle() -> None:
    """Commas come before spaces, and both halves are of like length."""
    text = "one two three four five, six seven eight nine ten, eleven twelve thirteen fourteen"
    first, second = pieces(text, "en", 60)
    assert first == Piece("one two three four five, six seven eight nine ten,", CLAUSE_PAUSE_MS)
    assert second == Piece("eleven twelve thirteen fourteen", 0)


def test_an_accent_stays_with_its_letter_when_there_is_no_place_to_cut() -> None:
    """A cut anywhere never begins a piece with a combining mark."""
    made = pieces("x\u0323\u0331" * 40, "en", 10)
    assert not any(unicodedata.combining(piece.text[0]) for piece in made)


def test_pauses_of_speech() -> None:
    """Sentences, paragraphs and list items have pauses of their own; none follows the last word."""
    made = pieces("One. Two.\n\nThree\nfour.\n- five\n2. six", "en", 400)
    assert made == [
        Piece("One.", SENTENCE_PAUSE_MS),
        Piece("Two.", PARAGRAPH_PAUSE_MS),
        Piece("Three four.", SENTENCE_PAUSE_MS),
        Piece("- five", SENTENCE_PAUSE_MS),
        Piece("2. six", 0),
    ]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a [pause 800ms] b", [Piece("a", 800), Piece("b", 0)]),
        ("a[PAUSE 1.5s]b", [Piece("a", 1500), Piece("b", 0)]),
        ("a [ pause 1,5 s ]", [Piece("a", 1500)]),
        ("[pause 1s][pause 2s] a", [Piece("", 3000), Piece("a", 0)]),
        ("A.\n\n[pause 2s]\n\nB.", [Piece("A.", 2000), Piece("B.", 0)]),
        ("a [pause 1s] … [pause 1s] b", [Piece("a", 2000), Piece("b", 0)]),
        ("a [pause 0ms] b", [Piece("a", 0), Piece("b", 0)]),
        ("[pause 1s]", [Piece("", 1000)]),
    ],
)
def test_pause_marks(text: str, made: list[Piece]) -> None:
    """A mark is as long as it says, in place of the pause that speech has there; marks in a row add up."""
    assert pieces(text, "en", 400) == made


@pytest.mark.parametrize(
    "mark", ["[pause]", "[pause 5 min]", "[pause 3]", "[pause 61s]", "[pause -1s]", "[pause200ms]", "[pause 1.2.3s]"]
)
def test_a_wrong_mark_is_an_error_that_shows_it(mark: str) -> None:
    """What was meant as a mark is not spoken; the error shows it and a right one."""
    with pytest.raises(PauseMark) as caught:
        pieces(f"a {mark} b", "en", 400)
    assert mark in str(caught.value)


@pytest.mark.parametrize("text", ["a [pause for effect] b", "a [paused 3s] b", "a [5] b", "pause 3s"])
def test_other_brackets_are_text(text: str) -> None:
    """Only marks are marks."""
    assert pieces(text, "en", 400) == [Piece(text, 0)]


@pytest.mark.parametrize("text", ["", " \n\t ", "...", "— … !?", "***\n\n---", "\u200b\ufeff", "😀"])
def test_without_letter_or_digit_there_is_nothing_to_speak(text: str) -> None:
    """Punctuation, blanks and pictures alone make no piece."""
    assert pieces(text, "en", 400) == []


def test_punctuation_alone_is_a_pause() -> None:
    """A line of stars between paragraphs is the pause between them and no call of the engine."""
    assert pieces("A.\n\n***\n\nB.", "en", 400) == [Piece("A.", PARAGRAPH_PAUSE_MS), Piece("B.", 0)]


def test_normal_text() -> None:
    """Composed, one kind of newline and blank; what can't be heard is gone, but joiners, which change letters, stay."""
    assert normal("e\u0301\u00a0 a\r\nb\u2028c\x07d\u202ee\ufefff\u00adg\ud800") == "é a\nb\nc defg "
    assert normal("می\u200cخواهم") == "می\u200cخواهم"
    assert normal("“quotes” ‘stay’ «as» they're") == "“quotes” ‘stay’ «as» they're"


@pytest.mark.parametrize(
    "unit",
    [
        "A sentence. ",
        "a",
        "a ",
        "\n",
        "\n ",
        "[",
        "[pause ",
        "[pause 5",
        "你好。",
        "“a. ",
        "\u0301\u0316",
        "\n- a",
        ", ",
        "(a. ",
    ],
)
def test_time_grows_with_the_length_alone(unit: str) -> None:
    """No text, however made, takes more than in proportion: four times the length, far from sixteen times the time."""

    def seconds(chars: int) -> float:
        text = (unit * (chars // len(unit) + 1))[:chars]
        started_s = time.process_time()
        pieces(text, "en", 400)
        return time.process_time() - started_s

    seconds(10_000)
    small_s = min(seconds(30_000) for _ in range(2))
    assert min(seconds(120_000) for _ in range(2)) < 10 * small_s + 0.1
