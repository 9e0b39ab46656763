"""The job as typed data: passages, language tags, the schema, and the examples that both are shown by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.registry import engines, planned
from jobs.errors import JobInvalid
from jobs.spec.checkpoint_names import Models
from jobs.spec.job_spec import JobSpec, Output, Segment
from jobs.spec.language import canonical_language
from jobs.spec.parse import Rules, parse
from jobs.spec.schema import job_schema
from jobs.spec.shape import LEGACY_SETTINGS
from tests.headers import F5, save, xtts, xtts_vocabulary
from tests.hub import place, vocos_release

EXAMPLES = Path(__file__).parents[4] / "examples"
RULES = Rules(engines(), planned())
VALIDATOR = jsonschema.Draft202012Validator(job_schema())


class TestPassages:
    def test_of_a_text_are_one(self) -> None:
        job = JobSpec.model_validate({"text": "a", "language": "en", "speaker": "Ana", "settings": {"speed": 1.0}})
        assert job.full_segments() == (
            Segment.model_validate({"text": "a", "language": "en", "speaker": "Ana", "settings": {"speed": 1.0}}),
        )

    def test_take_from_the_job_what_they_leave_out(self) -> None:
        first, second = JobSpec.model_validate(
            {
                "language": "en",
                "settings": {"speed": 1.0, "pitch": 3},
                "segments": [
                    {"text": "a", "pause_after_ms": 5},
                    {"text": "b", "language": "pt_br", "settings": {"speed": 2.0}},
                ],
            }
        ).full_segments()
        assert (first.language, first.settings, first.pause_after_ms) == ("en", {"speed": 1.0, "pitch": 3}, 5)
        assert (second.language, second.settings) == ("pt-BR", {"speed": 2.0, "pitch": 3})

    @pytest.mark.parametrize(
        ("own", "speaker", "speaker_wav", "speaker_text"),
        [
            ({}, None, ("job.wav",), "job"),
            ({"speaker_text": "own"}, None, ("job.wav",), "own"),
            ({"speaker": "Rui"}, "Rui", (), None),
            ({"speaker_wav": "own.wav"}, None, ("own.wav",), None),
            ({"speaker_wav": "own.wav", "speaker_text": "own"}, None, ("own.wav",), "own"),
        ],
    )
    def test_with_a_voice_of_their_own_take_nothing_of_the_jobs_voice(
        self, own: dict[str, str], speaker: str | None, speaker_wav: tuple[str, ...], speaker_text: str | None
    ) -> None:
        """The transcript of one recording is never said to be another's."""
        job = {"speaker_wav": "job.wav", "speaker_text": "job", "segments": [{"text": "a", **own}]}
        (passage,) = JobSpec.model_validate(job).full_segments()
        assert (passage.speaker, passage.speaker_wav, passage.speaker_text) == (speaker, speaker_wav, speaker_text)

    def test_leave_the_job_as_it_was(self) -> None:
        job = JobSpec.model_validate({"settings": {"a": 1}, "segments": [{"text": "a", "settings": {"b": 2}}]})
        before = job.model_dump_json()
        job.full_segments()
        assert job.model_dump_json() == before


def test_a_spec_is_frozen() -> None:
    job = JobSpec.model_validate({"text": "a"})
    with pytest.raises(ValidationError, match="frozen"):
        job.text = "b"


def test_a_spec_crosses_a_pipe_and_comes_back_the_same() -> None:
    """The worker gets it as JSON; what the job leaves out is left out there too."""
    (document,) = parse((EXAMPLES / "later.yaml").read_bytes(), ".yaml", RULES)
    assert document.spec is not None
    packed = document.spec.packed()
    assert JobSpec.model_validate(json.loads(json.dumps(packed))) == document.spec
    assert not {"speaker_wav", "seed", "output"} & packed.keys()


def test_a_moment_without_zone_is_local_time() -> None:
    job = JobSpec.model_validate({"text": "a", "not_before": "2026-12-01 08:00"})
    assert job.not_before is not None
    assert job.not_before.tzinfo is not None
    assert (job.not_before.hour, job.not_before.utcoffset()) == (8, job.not_before.astimezone().utcoffset())


@pytest.mark.parametrize("zone", ["+23:59:59", "-00:00:30", "+01:00:00.000001"])
def test_a_zone_has_whole_minutes(zone: str) -> None:
    """What has seconds in it would not come out of JSON as it went in."""
    with pytest.raises(ValidationError):
        JobSpec.model_validate({"text": "a", "not_before": f"2026-12-01T08:00:00{zone}"})


class TestLanguage:
    @pytest.mark.parametrize(
        ("written", "canonical"),
        [
            ("en", "en"),
            ("pt_br", "pt-BR"),
            ("PT-br", "pt-BR"),
            ("no", "no"),
            ("ES-419", "es-419"),
            ("zh_hant_tw", "zh-Hant-TW"),
            ("cmn-Latn-pinyin", "cmn-Latn-pinyin"),
            ("sl-ROZAJ-biske-1994", "sl-rozaj-biske-1994"),
            ("en-gb-x-rp", "en-GB-x-rp"),
            ("zh-yue-HK", "zh-yue-HK"),
            ("de-u-co-phonebk", "de-u-co-phonebk"),
            (" en ", "en"),
        ],
    )
    def test_tags_get_their_usual_form(self, written: str, canonical: str) -> None:
        assert canonical_language(written) == canonical

    @pytest.mark.parametrize(
        "written", ["", "e", "english", "pt-", "-pt", "pt--BR", "pt-B", "en_US.UTF-8", "en US", "português", "a" * 99]
    )
    def test_what_is_no_tag_has_none(self, written: str) -> None:
        assert canonical_language(written) is None

    @given(st.text(alphabet="aZ9-_x", max_size=70))
    def test_a_canonical_tag_is_its_own(self, written: str) -> None:
        canonical = canonical_language(written)
        assert canonical is None or canonical_language(canonical) == canonical


class TestSchema:
    def test_is_a_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(job_schema())

    def test_in_the_examples_is_up_to_date(self) -> None:
        """Else: `voicespool schema job > examples/job.schema.json`, without plugins installed."""
        assert json.loads((EXAMPLES / "job.schema.json").read_text("utf-8")) == job_schema()

    def test_describes_every_key(self) -> None:
        schema = job_schema()
        assert set(schema["properties"]) == {*JobSpec.model_fields, *LEGACY_SETTINGS}
        for properties in (schema["properties"], *(part["properties"] for part in schema["$defs"].values())):
            assert [key for key, value in properties.items() if not value.get("description")] == []

    def test_knows_no_other_keys(self) -> None:
        for wrong in ({"langauge": "en"}, {"output": {"rate": 1}}):
            assert not VALIDATOR.is_valid({"text": "a", **wrong})
        assert not VALIDATOR.is_valid({"segments": [{"text": "a", "x": 1}]})

    def test_offers_the_engines_there_are(self) -> None:
        offered = job_schema(engines=["espeak", "mine"])["properties"]["engine"]
        assert offered["anyOf"][0]["enum"] == ["espeak", "mine", "piper"]
        assert jsonschema.Draft202012Validator(job_schema()).is_valid({"text": "a", "engine": "somebody-elses"})

    @pytest.mark.parametrize(
        ("job", "valid"),
        [
            ({"text": "a"}, True),
            ({"segments": [{"text": "a"}]}, True),
            ({"text_file": "a.txt"}, True),
            ({}, False),
            ({"text": None}, False),
            ({"text": "a", "segments": None}, True),
            ({"text": "a", "text_file": "b"}, False),
            ({"text": "a", "speaker_wav": "x.wav"}, True),
            ({"text": "a", "speaker_wav": ["x.wav", "y.wav"]}, True),
            ({"text": "a", "speed": 1.2}, True),
        ],
    )
    def test_wants_exactly_one_text_and_takes_both_forms(self, job: dict[str, Any], valid: bool) -> None:
        assert VALIDATOR.is_valid(job) is valid

    _inner = st.sampled_from(["speed", *Segment.model_fields, *Output.model_fields])
    _optional: Any = {"language": st.just("en"), "pause_after_ms": st.integers(-1, 9), "speaker": st.none()}  # noqa: RUF012
    _values: Any = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 100_000), st.floats(0, 2), st.sampled_from(["en", "espeak", "Annie", "a", "wav"]),
        st.lists(st.sampled_from(["a.wav", "srt", 1]), max_size=2),
        st.dictionaries(_inner, st.none() | st.just("wav") | st.integers(1, 2), max_size=2),
        st.lists(st.fixed_dictionaries({"text": st.just("a")}, optional=_optional), max_size=2),
    )  # fmt: skip

    @given(
        st.dictionaries(st.sampled_from([*JobSpec.model_fields, *LEGACY_SETTINGS]), _values, max_size=5), st.booleans()
    )
    @settings(max_examples=400)
    def test_never_calls_wrong_what_the_spool_takes(self, job: dict[str, Any], with_text: bool) -> None:
        """An editor must not underline a job that runs."""
        job = {**job, "text": "a"} if with_text else job
        (document,) = parse(json.dumps(job).encode(), ".json", RULES)
        if document.spec is not None:
            VALIDATOR.validate(job)


class TestExamples:
    RIGHT = sorted(path.name for path in EXAMPLES.glob("*.[yj]*") if path.stem not in ("broken", "job.schema"))

    def test_are_there(self) -> None:
        assert {"hello.yaml", "ola.yaml", "segments.yaml", "several.yaml", "request.json"} <= set(self.RIGHT)

    @pytest.mark.parametrize("name", RIGHT)
    def test_are_right_to_the_spool_and_to_an_editor(self, name: str, tmp_path: Path) -> None:
        file = EXAMPLES / name
        save(tmp_path / "anna/best_model.safetensors", xtts()).with_name("vocab.json").write_text(xtts_vocabulary())
        place(tmp_path / "vocos-mel-24khz", vocos_release())
        save(tmp_path / "rui/model_last.safetensors", F5)
        for document in parse(file.read_bytes(), file.suffix, replace(RULES, models=Models(tmp_path))):
            assert document.problems == ()
        for job in yaml.load_all(file.read_text("utf-8"), Loader=yaml.CSafeLoader):
            VALIDATOR.validate(json.loads(json.dumps(job, default=lambda moment: moment.isoformat())))

    @pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
    def test_name_the_schema_in_their_first_line(self, file: Path) -> None:
        first = file.read_text("utf-8").splitlines()[0]
        assert first == "# yaml-language-server: $schema=job.schema.json"

    def test_the_broken_one_is_wrong_in_three_ways_at_once(self) -> None:
        (document,) = parse((EXAMPLES / "broken.yaml").read_bytes(), ".yaml", RULES)
        assert [problem.key for problem in document.problems] == ["langauge", "priority", "settings.speed"]
        assert not VALIDATOR.is_valid(yaml.safe_load((EXAMPLES / "broken.yaml").read_text("utf-8")))

    def test_show_what_the_contract_names(self) -> None:
        """Portuguese, English, several voices, several jobs, a time, settings, JSON."""
        specs = {
            name: [d.spec for d in parse((EXAMPLES / name).read_bytes(), Path(name).suffix, RULES)]
            for name in self.RIGHT
        }
        assert [spec.language for spec in specs["ola.yaml"] if spec] == ["pt-BR"]
        assert len(specs["several.yaml"]) == 3
        (segments,) = (spec for spec in specs["segments.yaml"] if spec)
        assert len({passage.speaker for passage in segments.full_segments()}) == 2
        (later,) = (spec for spec in specs["later.yaml"] if spec)
        assert later.not_before is not None


def test_a_broken_schema_file_is_no_job() -> None:
    """Somebody copies all of `examples/` into the inbox: the schema fails as a job, by name, and nothing else does."""
    (document,) = parse((EXAMPLES / "job.schema.json").read_bytes(), ".json", RULES)
    assert document.spec is None
    with pytest.raises(JobInvalid):
        parse(b"#!/bin/sh\n", ".json", RULES)
