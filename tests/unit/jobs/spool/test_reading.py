"""Job files that are read elsewhere: what comes back is what was read, and a claim remembers it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.checkpoints.reference import CheckpointRef
from engines.checkpoints.requirements import Requirement
from files.tree import Problem
from jobs.errors import JobInvalid
from jobs.order import Fallback
from jobs.spec.parse import Document, parse
from jobs.spec.rules import ModelsElsewhere, NeedsModelFiles, Rules
from jobs.spool.claim import ClaimFolder
from jobs.spool.reading import Reading, load_parsed, packed, save_parsed, unpacked
from tests.in_process import ENGINES

RULES = Rules(engines=ENGINES, default_engine="voice")
EVERYTHING = """
segments:
- {text: Olá, language: pt-BR, speaker_wav: [a.wav, b.wav], speaker_text: Olá., pause_after_ms: 300}
- {text: "two\\nlines", speaker: ana}
seed: 7
output: {format: wav}
priority: 0
not_before: 2026-12-01T08:00:00-03:00
timeout_s: 1.5
name: evening/news
metadata: {a: [1, 2.5, null, {b: "\\u2028"}], n: true}
"""


def read(text: str | bytes, suffix: str = ".yaml") -> tuple[Document, ...] | JobInvalid:
    try:
        return parse(text.encode() if isinstance(text, str) else text, suffix, RULES)
    except JobInvalid as invalid:
        return invalid


@pytest.mark.parametrize(
    "text",
    [
        EVERYTHING,
        "text: a",
        "text: a #1 b\n---\nspeaker_wav: c.wav\ntext: é\n---\ntxt: b\n---\n",
        '{"text": "\\ud83d"}',
    ],
)
def test_documents_come_back_as_they_were_read(text: str) -> None:
    documents = read(text)
    assert not isinstance(documents, JobInvalid)
    assert unpacked(packed(documents), text.encode()) == documents


def test_a_file_that_is_none_comes_back_with_its_problems() -> None:
    invalid = read(b"text: [a\n")
    assert isinstance(invalid, JobInvalid)
    back = unpacked(packed(invalid), b"")
    assert isinstance(back, JobInvalid)
    assert (back.problems, back.maybe_unfinished) == (invalid.problems, True)


@pytest.mark.parametrize(
    "model",
    [
        CheckpointRef(
            Path("/m/a.pth"),
            "a.pth",
            "xtts",
            "XTTS-v2",
            "",
            0.5,
            (Path("/m/a.pth"), Path("/m/v.json")),
            (Requirement("xtts"),),
        ),
        Fallback("anna", "it is broken"),
    ],
)
def test_models_come_back(model: Any) -> None:
    documents = read("text: a")
    assert not isinstance(documents, JobInvalid)
    document = replace(documents[0], model=model)
    assert unpacked(packed((document,)), b"text: a") == (document,)


def test_a_job_that_names_a_model_can_not_be_read_where_models_are_not_looked_at() -> None:
    rules = replace(RULES, models=ModelsElsewhere())
    assert Reading.at_once(b"text: a", ".yaml", rules).documents()
    with pytest.raises(NeedsModelFiles):
        Reading.at_once(b"text: a\ncheckpoint: anna", ".yaml", rules)


def test_a_claim_remembers_what_was_read_by_the_same_rules(tmp_path: Path) -> None:
    documents, invalid = read(EVERYTHING), JobInvalid([Problem("it is none", "", 3)])
    assert not isinstance(documents, JobInvalid)
    save_parsed(ClaimFolder(tmp_path), "key", documents[0])
    reading = load_parsed(ClaimFolder(tmp_path), "key", EVERYTHING.encode())
    assert reading is not None
    assert reading.documents() == documents
    assert load_parsed(ClaimFolder(tmp_path), "other key", EVERYTHING.encode()) is None
    save_parsed(ClaimFolder(tmp_path), "key", invalid)
    reading = load_parsed(ClaimFolder(tmp_path), "key", b"")
    assert reading is not None
    with pytest.raises(JobInvalid, match="it is none"):
        reading.documents()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"key": "key"}', b'{"key": "key", "documents": [{}]}', b'{"key": "key", "documents": []}']
)
def test_what_is_damaged_is_read_again(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "understood.json").write_bytes(damage)
    assert load_parsed(ClaimFolder(tmp_path), "key", b"text: a") is None
