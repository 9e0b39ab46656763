"""What a worker prints becomes few, short and harmless lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from watcher.executors.local.output import LAST_LINES, LINE_CHARS, LINES_PER_WINDOW, WINDOW_S, OutputLog


class Heard:
    """Keeps what an OutputLog says; the clock stands still unless moved."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.dropped: list[int] = []
        self.now_s = 100.0
        self.output = OutputLog(self.lines.append, self.dropped.append, lambda: self.now_s)


def test_lines_are_shown_as_they_end_and_the_last_one_at_the_end() -> None:
    heard = Heard()
    heard.output.feed(b"one\ntw")
    assert heard.lines == ["one"]
    heard.output.feed(b"o\r\nprogress 1%\rprogress 2%\r\n\n  \nthree")
    assert heard.lines == ["one", "two", "progress 1%", "progress 2%"]
    heard.output.finish()
    assert heard.lines[-1] == "three"
    assert heard.dropped == []


def test_a_line_without_end_is_shown_once_and_cut() -> None:
    heard = Heard()
    for _ in range(100):
        heard.output.feed(b"x" * 100_000)
    heard.output.feed(b"still the same line\nnext\n")
    assert [len(line) for line in heard.lines] == [LINE_CHARS + 1, len("next")]
    assert heard.lines[0].endswith("…")


def test_control_characters_and_broken_text_become_visible() -> None:
    heard = Heard()
    heard.output.feed(b"\x1b[31mred\x07 \xff\xfe \xe2\x80\xae\n")
    assert heard.lines == ["\\x1b[31mred\\x07 \ufffd\ufffd \\u202e"]


def test_too_many_lines_are_counted_and_the_last_words_kept() -> None:
    heard = Heard()
    for number in range(LINES_PER_WINDOW + 500):
        heard.output.feed(b"line %d\n" % number)
    assert len(heard.lines) == LINES_PER_WINDOW
    heard.output.finish()
    assert heard.lines[LINES_PER_WINDOW:] == [
        f"line {number}" for number in range(LINES_PER_WINDOW + 500 - LAST_LINES, LINES_PER_WINDOW + 500)
    ]
    assert heard.dropped == [500 - LAST_LINES]


def test_after_a_while_lines_are_shown_again_and_the_gap_named() -> None:
    heard = Heard()
    heard.output.feed(b"x\n" * (LINES_PER_WINDOW + 7))
    heard.now_s += WINDOW_S
    heard.output.feed(b"again\n")
    assert heard.dropped == [7]
    assert heard.lines[-1] == "again"


def test_breaking_the_line_keeps_one_jobs_words_apart_from_the_nexts() -> None:
    heard = Heard()
    heard.output.feed(b"of the first")
    heard.output.break_line()
    heard.output.feed(b"of the second\n")
    assert heard.lines == ["of the first", "of the second"]


@given(st.lists(st.binary(max_size=300), max_size=30))
def test_whatever_comes_is_printable_and_bounded(pieces: list[bytes]) -> None:
    heard = Heard()
    for piece in pieces:
        heard.output.feed(piece)
    heard.output.finish()
    assert all(line.isprintable() or "\ufffd" in line or line.split() for line in heard.lines)
    assert all(len(line) <= LINE_CHARS + 1 and "\n" not in line and "\x1b" not in line for line in heard.lines)
    assert len(heard.lines) <= LINES_PER_WINDOW + LAST_LINES
    shown = len(heard.lines) + sum(heard.dropped)
    assert shown == len([line for line in b"".join(pieces).replace(b"\r", b"\n").split(b"\n") if line.strip()])
