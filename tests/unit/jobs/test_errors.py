"""Words from strangers are harmless wherever they are shown, and every error says what it means."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from files.printable import printable, printable_json
from files.tree import Problem
from jobs import errors
from jobs.errors import Hold, JobInvalid, RenderFailed, SpoolError, holding


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Olá, 世界 😀", "Olá, 世界 😀"),
        ("a\tb", "a b"),
        ("\x1b[2J\x1b]8;;http://x\x07", "\\x1b[2J\\x1b]8;;http://x\\x07"),
        ("one\r\ntwo", "one\\x0d\\x0atwo"),
        ("a\x00b\x7f", "a\\x00b\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("line\u2028para\u2029", "line\\u2028para\\u2029"),
        ("\ufeff\u200b", "\\ufeff\\u200b"),
        ("\U000e0041", "\\U000e0041"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
        ("\ud800", "\\ud800"),
        ("", ""),
        (42, "42"),
        (ValueError("no\nthing"), "no\\x0athing"),
    ],
)
def test_what_is_shown_of(text: object, shown: str) -> None:
    assert printable(text) == shown


@given(st.one_of(st.text(), st.binary().map(os.fsdecode)))
def test_json_that_people_read_says_the_same(text: str) -> None:
    shown = printable_json(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(shown) == {text: text}
    assert not set(shown) & set("\x7f\x9b\u2028\u202e\ud800")
    shown.encode()


@given(st.one_of(st.text(), st.binary().map(os.fsdecode)), st.integers(1, 50))
def test_nothing_that_is_shown_steers_a_terminal_or_makes_a_line(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit + 1
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in shown)
    shown.encode("utf-8")


@given(st.text(), st.integers(1, 50))
def test_longer_text_is_cut_where_it_says(text: str, limit: int) -> None:
    whole = printable(text, 10_000)
    assert printable(text, limit) == (whole if len(whole) <= limit else whole[:limit] + "…")


def test_a_huge_text_costs_no_more_than_what_is_shown() -> None:
    assert printable("x" * 50_000_000, 10) == "x" * 10 + "…"


def test_every_error_has_a_code_of_its_own_and_an_exit_code() -> None:
    found, left = [], [SpoolError]
    while left:
        kind = left.pop()
        found.append(kind)
        left.extend(kind.__subclasses__())
    names = {kind.__name__ for kind in found if kind.__module__ == errors.__name__}
    assert all(name in (errors.__doc__ or "") for name in names), "the tree at the head of the file is whole"
    codes = [kind.code for kind in found if kind.__module__ == errors.__name__]
    assert len(codes) == len(set(codes))
    assert all(kind.exit_code in {1, 3, 4, 70, 75} for kind in found)  # as `watcher.cli.main` documents them


def test_a_problem_reads_as_a_sentence_with_its_place() -> None:
    assert str(Problem("it is wrong")) == "it is wrong"
    assert str(Problem("it is wrong", line=3)) == "line 3: it is wrong"
    assert str(Problem("it is wrong", "segments[2].text", 3)) == "line 3: segments[2].text: it is wrong"


def test_a_thousand_problems_make_a_short_message() -> None:
    error = JobInvalid([Problem(f"wrong {number}") for number in range(1000)])
    assert error.message.count(";") == 19
    assert len(error.problems) == 1000


def test_a_failed_render_says_whether_it_is_worth_a_retry() -> None:
    assert RenderFailed("x").retryable
    assert not RenderFailed("x", retryable=False).retryable
    assert RenderFailed("x", code="timeout").code == "timeout"
    assert RenderFailed("x").code == "engine_failed"


def test_an_inbox_without_its_state_says_both_cures() -> None:
    """An unmounted share, or a mirroring program that took the state for rubbish."""
    assert all(word in errors.InboxGone("gone").hint for word in ("Mount", "`.voicespool`", "`state_dir`"))


def test_trouble_of_the_file_system_is_a_hold_that_says_where(tmp_path: object) -> None:
    with pytest.raises(Hold, match=r"^the outbox: No such file or directory \(.*/gone\)$"), holding("the outbox"):
        open(f"{tmp_path}/gone")  # noqa: SIM115 - it is not there
    with pytest.raises(KeyError), holding("the outbox"):
        raise KeyError
