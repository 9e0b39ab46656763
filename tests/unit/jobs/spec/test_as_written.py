"""Text is what the person typed: numbers and words without quotes are text where text is taken, and a comment after
a text is never cut off silently.
"""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import JobInvalid
from jobs.spec.parse import Document, parse
from tests.unit.jobs.spec.test_parse import RULES

AS_TYPED = ["112", "3.10", "0510210600", "1e3", "1e999", "9" * 400, "true", "False", "no", "0x1F", ".inf", "2024-01-01",
            "-5", "12:30", "+55"]  # fmt: skip


def only(text: str, suffix: str = ".yaml") -> Document:
    (document,) = parse(text.encode(), suffix, RULES)
    return document


def said(text: str) -> dict[str, Any]:
    document = only(text)
    assert document.spec is not None, document.problems
    return document.spec.model_dump()


@pytest.mark.parametrize("typed", AS_TYPED)
def test_a_value_without_quotes_is_the_text_that_stands_there(typed: str) -> None:
    """In a block, in braces, in a passage, behind an alias, and at the key of a name."""
    assert said(f"text: {typed}\n")["text"] == typed
    assert said(f"{{text: {typed}}}")["text"] == typed
    assert said(f"segments:\n- text: {typed}\n- {{text: {typed}}}\n")["segments"][1]["text"] == typed
    found = said(f"text: hi\nspeaker_wav: [{typed}, a.wav]\nspeaker_text: {typed}\n")
    assert (found["speaker_wav"], found["speaker_text"]) == ((typed, "a.wav"), typed)
    if len(typed) < 9 and typed[0] != ".":
        assert said(f"text: hi\nname: {typed}\n")["name"] == typed


def test_an_alias_means_what_its_key_takes() -> None:
    """The number for a seed and the text for a text, of one value."""
    found = said("seed: &n 0042\ntext: *n\nmetadata: {n: *n}\n")
    assert (found["seed"], found["text"], found["metadata"]) == (42, "0042", {"n": 42})
    found = said("metadata: {part: &part {text: 3.10}}\nsegments: [*part]\n")
    assert (found["segments"][0]["text"], found["metadata"]["part"]["text"]) == ("3.10", 3.1)
    document = only("text: &n 1e999\nseed: *n\n")
    assert [problem.key for problem in document.problems] == ["seed"]


@pytest.mark.parametrize("typed", ["~", "null", "", "[1]", "{a: 1}"])
def test_nothing_stays_nothing_and_a_list_is_no_text(typed: str) -> None:
    assert only(f"text: {typed}\n").spec is None
    if typed[:1] not in {"[", "{"}:
        assert said(f"text: hi\nname: {typed}\nspeaker: {typed}\n")["name"] is None


def test_numbers_stay_numbers_where_numbers_are_meant() -> None:
    assert said("text: hi\npriority: 7\nsettings: {speed: 1.50}\n")["settings"]["speed"] == 1.5
    assert only("text: hi\nsettings: {steps: 1e999}\n").problems[0].message.startswith("the number is too large")


def test_json_takes_a_number_for_a_text_and_no_other_word() -> None:
    document = only('{"text": 3.10, "name": 1e400}', ".json")
    assert document.spec is not None
    assert (document.spec.text, document.spec.name) == ("3.10", "1e400")
    assert only('{"text": true}', ".json").spec is None
    assert said('{"text": true}')["text"] == "true", "in a YAML file it is YAML"


@pytest.mark.parametrize(
    ("job", "key", "line", "cut"),
    [
        ("text: Call extension #42 now\n", "text", 1, "#42 now"),
        ("# about\ntext: Call\n  extension\n  home \t# 42\nlanguage: en # British\n", "text", 4, "# 42"),
        ("segments:\n- text: a\n- {text: Call #1\n  }\n", "segments[1].text", 3, "#1"),
        ("text: 'a'\nspeaker_wav: a.wav\nspeaker_text: Say #1\n", "speaker_text", 3, "#1"),
        ("text: 12 #3\n", "text", 1, "#3"),
        ("text: Olá\u2028 é #3\r\n", "text", 1, "#3"),
        ("metadata: {a: &a Call #1\n }\ntext: *a # the same\n", "text", 1, "#1"),
        ("text: a\nspeaker_wav:\n- take #2.wav\n", "speaker_wav[0]", 3, "#2.wav"),
        ("text: a\nname: news #5\n", "name", 2, "#5"),
    ],
)
def test_a_comment_after_a_text_is_a_warning_that_shows_what_is_cut(job: str, key: str, line: int, cut: str) -> None:
    """And the job is right all the same."""
    document = only(job)
    assert document.spec is not None, document.problems
    (warning,) = document.warnings
    assert (warning.key, warning.line) == (key, line)
    assert f"`{cut}` is " in warning.message
    assert "in quotes" in warning.message


@pytest.mark.parametrize(
    "job",
    [
        'text: "Call #42" # a note\n',
        "text: 'Call' #a note\n",
        "text: |\n  Call #42\n",
        "text: >  # folded\n  Call #42\n",
        "text: a\npriority: 3 #high\nlanguage: en #British\nengine: plain # best\nseed: 4 # lucky\n",
        "text: a\nspeaker: Ana # her voice\nname: news # of today\n",
        "text: Hello#42\n",
        "text: Hello\n# a line of its own\n",
        "text: ~ #nothing\nsegments: [{text: a}]\n",
        "text: a\nmetadata: {note: see #4\n  }\n",
    ],
)
def test_other_comments_are_comments(job: str) -> None:
    document = only(job)
    assert document.spec is not None, document.problems
    assert document.warnings == ()


def test_of_many_comments_a_few_are_shown() -> None:
    document = only("segments:\n" + "- text: a #b\n" * 1000)
    assert len(document.warnings) == 21
    assert document.warnings[-1].message == "and 980 more texts followed by a comment"


def test_a_wrong_job_warns_too() -> None:
    document = only("text: Call #42\nlangauge: en\n")
    assert document.spec is None
    assert len(document.warnings) == 1
    with pytest.raises(JobInvalid):
        only("text: Call #42\n  now\n")
