"""manifest.json: what it says is JSON for any reader, and harmless in any terminal."""

from __future__ import annotations

import json
import os
import unicodedata

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from files.printable import printable
from jobs.results.manifest import AudioFile, Checks, Failure, Manifest, SpokenSegment, schema
from tests.manifests import manifest

FULL = manifest(
    audio=(
        AudioFile(
            file="a.wav", sha256="0" * 64, format="wav", sample_rate=8000, channels=1, duration_s=1, peak_dbfs=None
        ),
    ),
    segments=(SpokenSegment(text="a", start_s=0, end_s=1, seed=2**53 - 1),),
    checks=Checks(verdict="doubtful", reasons=("silence",)),
    error=Failure(
        code="x", message="m", hint="h", retryable=False, problems=({"line": 1, "key": "k", "message": "m"},)
    ),
    request={"text": "a", "metadata": {"nested": [1, None, 2.5, {"é": "😀"}]}},
    engine={"name": "espeak", "more": "than listed"},
)


@pytest.mark.parametrize("one", [manifest(), FULL], ids=["least", "most"])
def test_it_keeps_to_its_schema(one: Manifest) -> None:
    jsonschema.validate(json.loads(one.to_json()), schema())


def test_nothing_empty_is_in_it() -> None:
    """But for lists that programs go through, silence, and what is the job's or the engine's own."""
    engine, mine = {"name": "espeak", "fallback": None}, {"metadata": {"empty": [], "none": None}, "text": "a"}
    request = {**mine, "speaker_wav": [], "segments": [], "settings": {}, "output": {"subtitles": []}}
    told = json.loads(manifest(request=request, engine=engine, checks=Checks(verdict="ok")).to_json())
    assert told["request"] == mine
    assert (told["engine"], told["checks"], told["audio"], told["warnings"]) == (engine, {"verdict": "ok"}, [], [])
    assert not {"voice", "segments", "chunks", "chunks_file", "error"} & told.keys()
    assert json.loads(FULL.to_json())["audio"][0]["peak_dbfs"] is None
    assert "loudness_lufs" not in json.loads(FULL.to_json())["audio"][0]


@pytest.mark.parametrize("seed", [-1, 2**53])
def test_seeds_are_numbers_for_every_reader(seed: int) -> None:
    """jq and JavaScript calculate in doubles."""
    with pytest.raises(ValidationError):
        SpokenSegment(start_s=0, end_s=1, seed=seed)


def test_it_reads_back_as_it_was() -> None:
    assert Manifest.model_validate(json.loads(FULL.to_json())).to_json() == FULL.to_json()
    assert FULL.to_json().endswith(b"}\n")
    assert b'"\xc3\xa9": "\xf0\x9f\x98\x80"' in FULL.to_json(), "text stays readable"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_steers_a_terminal_and_none_is_changed(text: str) -> None:
    raw = manifest(request={"text": text, text: "key"}).to_json()
    assert json.loads(raw)["request"] == {"text": text} | {text: "key"}
    for char in raw.decode().replace("\n", ""):
        assert unicodedata.category(char) not in {"Cc", "Zl", "Zp"}
        assert unicodedata.bidirectional(char) not in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.binary(min_size=1, max_size=60))
def test_names_that_are_not_utf8_are_written_as_escapes(raw: bytes) -> None:
    """The daemon writes names through `printable`."""
    name = printable(os.fsdecode(raw))
    assert json.loads(manifest(name=name).to_json())["name"] == name


@pytest.mark.parametrize(
    "wrong",
    [{"status": "maybe"}, {"timing": {"queued_s": -1, "total_s": 0}}, {"audio": ({"file": "a"},)}, {"schema": 2}],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        manifest(**wrong)


def test_a_reader_ignores_what_a_later_version_adds() -> None:
    """And takes nothing else for a manifest."""
    told = json.loads(FULL.to_json())
    told["source"]["owner"] = told["loudness"] = {"later": 1}
    assert Manifest.read(json.dumps(told).encode()) is not None
    for other in (b"", b"[]", b"{", b'{"job_id": "1"}', json.dumps(told | {"status": 1}).encode()):
        assert Manifest.read(other) is None
