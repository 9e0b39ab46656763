"""Which engine and which model a job is for, and what is said when they do not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from engines import registry
from engines.base import EngineClass, EngineInfo, Option
from jobs.checkpoint_names import Models
from jobs.parse import Document, parse
from jobs.rules import Rules
from tests.headers import F5, save, xtts


class Plain:
    """Has a voice of its own, and no checkpoints."""

    ABOUT = EngineInfo("plain", "Plain", "MIT", "plain", "1", None, 22050, ("en", "pt-BR"), speakers=("Ana",))

    @classmethod
    def info(cls) -> EngineInfo:
        return cls.ABOUT

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        return tag if tag in cls.ABOUT.languages else None


class Xtts(Plain):
    """What XTTS says of itself, as far as parsing goes."""

    ABOUT = replace(
        Plain.ABOUT,
        name="xtts",
        speakers=(),
        options=(Option("temperature", float, 0.75, "", 0, 1),),
        clones_voices=True,
        needs_voice=True,
        takes_checkpoints=True,
    )


class Own(Plain):
    """A plugin with model files of its own kind."""

    ABOUT = replace(Plain.ABOUT, name="own", speakers=(), takes_checkpoints=True)


ENGINES = cast(Mapping[str, EngineClass], {"plain": Plain, "xtts": Xtts, "own": Own})
PLANNED = {"f5": "this version has no f5 engine yet"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of XTTS, one of F5, one that nobody knows, and one that is broken."""
    monkeypatch.setattr(registry, "_PLANNED", PLANNED)
    folder = tmp_path / "models"
    save(folder / "anna/best_model.safetensors", xtts())
    save(folder / "rui.safetensors", F5)
    save(folder / "tone.safetensors")
    broken = save(folder / "broken.safetensors", xtts())
    broken.write_bytes(broken.read_bytes()[:-1])
    return folder


def read(models: Path, job: Mapping[str, Any], **more: Any) -> Document:
    rules = Rules(ENGINES, PLANNED, **{"default_engine": "plain", "models": Models(models), **more})
    (document,) = parse(json.dumps({"text": "Hello.", **job}).encode(), ".json", rules)
    return document


def chosen(models: Path, job: Mapping[str, Any], **more: Any) -> tuple[str | None, str | None, str | None]:
    """Engine, checkpoint as the manifest's request has it, and the name of the file."""
    document = read(models, job, **more)
    assert document.problems == ()
    assert document.spec is not None
    return document.spec.engine, document.spec.checkpoint, document.model.name if document.model else None


def problems(models: Path, job: Mapping[str, Any], **more: Any) -> dict[str, str]:
    document = read(models, job, **more)
    assert document.spec is None
    assert document.model is None
    return {problem.key: problem.message for problem in document.problems}


ANNA = "anna/best_model.safetensors"
VOICE = {"speaker_wav": "ana.wav"}


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({}, ("plain", None, None)),
        ({"engine": "xtts", **VOICE}, ("xtts", None, None)),
        ({"checkpoint": "anna", **VOICE}, ("xtts", "anna", ANNA)),
        ({"checkpoint": "best_model", "engine": "xtts", "speaker": "Zoe"}, ("xtts", "best_model", ANNA)),
        ({"checkpoint": "tone", "engine": "own"}, ("own", "tone", "tone.safetensors")),
        ({"checkpoint": None}, ("plain", None, None)),
    ],
)
def test_the_engine_is_named_or_decided_by_the_checkpoint_or_the_default(
    models: Path, job: dict[str, Any], expected: tuple[str | None, ...]
) -> None:
    assert chosen(models, job) == expected


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"checkpoint": "ana"}, 'there is no model "ana" in models/; there is'),
        ({"checkpoint": "ana"}, "did you mean `anna`?"),
        ({"checkpoint": "../anna"}, 'found "../anna"; `..` is not allowed'),
        ({"checkpoint": "/etc/passwd"}, "leads out of the spool's folders"),
        ({"checkpoint": "https://x.org/a.pth"}, "nothing is downloaded"),
        ({"checkpoint": "broken"}, "broken.safetensors does not load: The file can't be used: it is cut off"),
        ({"checkpoint": "broken", "engine": "xtts", **VOICE}, "broken.safetensors does not load"),
        ({"checkpoint": "tone"}, "tone.safetensors does not load: It is not a speech model that is known here"),
        ({"checkpoint": "anna", "engine": "plain"}, "plain has no checkpoints; leave this out, or `engine`"),
        ({"checkpoint": "anna", "engine": "own"}, f"{ANNA} is a model for xtts (XTTS-v2), not for own"),
        ({"checkpoint": "rui"}, "rui.safetensors is a model for f5 (F5-TTS"),
        ({"checkpoint": "rui"}, "this version has no f5 engine yet"),
        ({"checkpoint": "rui", "engine": "xtts", **VOICE}, "is a model for f5 (F5-TTS"),
    ],
)
def test_what_does_not_fit_is_found_under_its_key_with_the_cure(models: Path, job: dict[str, Any], words: str) -> None:
    found = problems(models, job)
    assert list(found) == ["checkpoint"]
    assert words in found["checkpoint"]


def test_everything_wrong_is_reported_at_once(models: Path) -> None:
    """A checkpoint that is not there hides nothing else, and one that is there decides what else is wrong."""
    assert set(problems(models, {"checkpoint": "nobody", "priority": 10})) == {"checkpoint", "priority"}
    found = problems(models, {"checkpoint": "anna", "language": "ja", "settings": {"speed": 1}})
    assert set(found) == {"language", "settings.speed", "speaker_wav"}
    assert "xtts does not speak" in found["language"]


def test_going_on_with_the_base_model_is_refused_where_it_would_matter(models: Path) -> None:
    """It is not built yet, and must not be ignored; without a checkpoint it says nothing."""
    base = {"on_checkpoint_error": "base"}
    refusal = {"on_checkpoint_error": "base is not available in this version; allowed is fail"}
    assert chosen(models, base)[0] == "plain"
    assert problems(models, {"checkpoint": "anna", **VOICE, **base}) == refusal
    assert problems(models, {"checkpoint": "anna", **VOICE}, defaults=base) == refusal
    assert chosen(models, {"checkpoint": "anna", **VOICE, "on_checkpoint_error": "fail"}, defaults=base)[0] == "xtts"


class TestDefaultCheckpoint:
    @pytest.mark.parametrize(
        ("job", "expected"),
        [
            ({**VOICE}, ("xtts", "anna", ANNA)),
            ({"engine": "xtts", **VOICE}, ("xtts", "anna", ANNA)),
            ({"engine": "plain"}, ("plain", None, None)),
            ({"engine": "own"}, ("own", None, None)),
            ({"engine": "own", "checkpoint": "tone"}, ("own", "tone", "tone.safetensors")),
        ],
    )
    def test_is_for_jobs_whose_engine_is_open_or_fits(
        self, models: Path, job: dict[str, Any], expected: tuple[str | None, ...]
    ) -> None:
        assert chosen(models, job, defaults={"checkpoint": "anna"}) == expected

    def test_of_a_plugin_is_for_the_default_engine(self, models: Path) -> None:
        more: dict[str, Any] = {"default_engine": "own", "defaults": {"checkpoint": "tone"}}
        assert chosen(models, {}, **more) == ("own", "tone", "tone.safetensors")

    def test_goes_with_the_default_speaker(self, models: Path) -> None:
        """A voice of the model's own: for jobs with that model, not for those that name another."""
        defaults = {"checkpoint": "anna", "speaker": "Zoe"}
        document = read(models, {}, defaults=defaults)
        assert document.spec is not None
        assert (document.spec.engine, document.spec.speaker) == ("xtts", "Zoe")
        save(models / "ana.safetensors", xtts())
        assert set(problems(models, {"checkpoint": "ana"}, defaults=defaults)) == {"speaker_wav"}

    def test_that_is_gone_is_told_and_never_replaced_by_the_base_model(self, models: Path) -> None:
        gone = {"defaults": {"checkpoint": "gone"}}
        for job in ({}, {"engine": "xtts", **VOICE}):
            (message,) = problems(models, job, **gone).values()
            assert message.startswith('defaults.checkpoint in config.yaml: there is no model "gone"')
        assert chosen(models, {"engine": "plain"}, **gone)[0] == "plain"


class TestVoice:
    NEEDS = "xtts needs speaker_wav (a recording) or speaker"

    def test_is_needed_by_an_engine_without_one(self, models: Path) -> None:
        assert problems(models, {"engine": "xtts"}) == {"speaker_wav": self.NEEDS}
        assert problems(models, {"checkpoint": "anna"}) == {"speaker_wav": self.NEEDS}

    @pytest.mark.parametrize("voice", [{"speaker": "Zoe"}, VOICE])
    def test_may_be_either_kind_and_come_from_the_configuration(self, models: Path, voice: dict[str, Any]) -> None:
        assert chosen(models, {"engine": "xtts", **voice})[0] == "xtts"
        assert chosen(models, {}, default_engine="xtts", defaults=voice)[0] == "xtts"

    def test_is_needed_by_each_passage(self, models: Path) -> None:
        passages = [{"text": "One.", "speaker": "Zoe"}, {"text": "Two."}, {"text": "Three.", **VOICE}]
        job = {"text": None, "engine": "xtts", "segments": passages}
        assert problems(models, job) == {"segments[1]": f"{self.NEEDS}, here or for the whole job"}
        assert chosen(models, {**job, "speaker": "Rui"})[0] == "xtts"
        silent = {"text": None, "engine": "xtts", "segments": [{"text": "One."}, {"text": "Two."}]}
        assert problems(models, silent) == {"speaker_wav": self.NEEDS}

    def test_that_is_wrong_is_complained_about_once(self, models: Path) -> None:
        assert set(problems(models, {"engine": "xtts", "speaker_wav": 3})) == {"speaker_wav"}
        assert set(problems(models, {"engine": "xtts", "speaker": 3})) == {"speaker"}
