"""Somebody who comes from another tool is told which key does it here."""

from __future__ import annotations

import pytest

from jobs.spec import other_tools
from jobs.spec.job_spec import JobSpec
from jobs.spec.parse import parse
from tests.unit.jobs.spec.test_parse import RULES


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("input", "use `text`"),
        ("voice", "use `speaker` (a voice built into the model or engine) or `speaker_wav`"),
        ("voice_id", "`speaker`"),
        ("voiceId", "`speaker`"),
        ("ref_audio", "use `speaker_wav`"),
        ("reference-audio", "use `speaker_wav`"),
        ("speaker_audio", "use `speaker_wav`"),
        ("ref_text", "use `speaker_text`"),
        ("prompt_text", "use `speaker_text`"),
        ("lang", "use `language`"),
        ("output_file", "use `name`"),
        ("response_format", "use `output: {format: …}`"),
        ("model", "use `checkpoint` (a fine-tuned model) or `engine`"),
    ],
)
def test_a_key_of_another_tool_names_the_one_here(key: str, words: str) -> None:
    (document,) = parse(f"text: hi\n{key}: x\n".encode(), ".yaml", RULES)
    (problem,) = document.problems
    assert problem.key == key
    assert words in problem.message
    assert "known here" not in problem.message


def test_what_is_a_key_here_is_nobody_elses() -> None:
    assert [key for key in JobSpec.model_fields if other_tools.equivalent(key)] == []


def test_a_key_that_nobody_knows_lists_a_few() -> None:
    (document,) = parse(b"text: hi\nzzzzzz: x\n", ".yaml", RULES)
    (problem,) = document.problems
    assert problem.message.endswith("speaker_text and 16 more")
