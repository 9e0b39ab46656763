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
from jobs.order import Fallback
from jobs.spec.checkpoint_names import Models
from jobs.spec.parse import Document, parse
from jobs.spec.rules import Rules
from tests.headers import F5, save, xtts, xtts_vocabulary
from tests.model_files import Runs


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


class Continues(Plain):
    """An engine that goes on where a recording ends, and has no other voice."""

    ABOUT = replace(Xtts.ABOUT, name="continues", needs_transcript=True)


class Own(Plain):
    """A plugin with model files of its own kind."""

    ABOUT = replace(Plain.ABOUT, name="own", speakers=(), takes_checkpoints=True)


ENGINES = cast(Mapping[str, EngineClass], {"plain": Plain, "xtts": Xtts, "continues": Continues, "own": Own})
PLANNED = {"f5": "this version has no f5 engine yet"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of XTTS, one of F5, one that nobody knows, and one that is broken."""
    monkeypatch.setattr(registry, "_PLANNED", PLANNED)
    folder = tmp_path / "models"
    save(folder / "anna/best_model.safetensors", xtts()).with_name("vocab.json").write_text(xtts_vocabulary())
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
    assert not isinstance(document.model, Fallback)
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
        ({"checkpoint": "ana"}, 'unknown model "ana"; available in models/:'),
        ({"checkpoint": "ana"}, "did you mean `anna`?"),
        ({"checkpoint": "../anna"}, 'found "../anna"; `..` is not allowed'),
        ({"checkpoint": "/etc/passwd"}, "is outside the spool's folders"),
        ({"checkpoint": "https://x.org/a.pth"}, "does not download files"),
        ({"checkpoint": "broken"}, "broken.safetensors does not load: The file can't be used: it is cut off"),
        ({"checkpoint": "broken", "engine": "xtts", **VOICE}, "broken.safetensors does not load"),
        ({"checkpoint": "tone"}, "tone.safetensors does not load: It is not a supported speech model"),
        ({"checkpoint": "anna", "engine": "plain"}, "plain has no checkpoints; remove this key, or remove `engine`"),
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
    assert "xtts does not support" in found["language"]


class TestFallingBackOnTheBaseModel:
    BASE: Mapping[str, Any] = {"on_checkpoint_error": "base"}

    @pytest.mark.parametrize(
        ("job", "reason"),
        [
            ({"checkpoint": "ana", "engine": "xtts"}, 'unknown model "ana"; available in models/'),
            ({"checkpoint": "twin", "engine": "xtts"}, '"twin" fits several models'),
            ({"checkpoint": "../anna", "engine": "xtts"}, 'found "../anna"; `..` is not allowed'),
            ({"checkpoint": "/etc/passwd", "engine": "xtts"}, "is outside the spool's folders"),
            ({"checkpoint": "broken", "engine": "xtts"}, "broken.safetensors does not load: The file can't be used"),
            ({"checkpoint": "hostile", "engine": "xtts"}, "it contains code"),
            ({"checkpoint": "rui", "engine": "xtts"}, "rui.safetensors is a model for f5"),
            ({"checkpoint": "old"}, "old/model.safetensors does not load: vocab.json next to it has 3 tokens"),
        ],
    )
    def test_is_for_every_checkpoint_that_can_not_be_used(self, models: Path, job: dict[str, Any], reason: str) -> None:
        """With the engine of the job, else the one that the checkpoint's header names."""
        import torch

        save(models / "twin/one.safetensors", xtts())
        save(models / "twin/two.safetensors", xtts())
        old = save(models / "old/model.safetensors", xtts())
        (old.parent / "vocab.json").write_text('{"model": {"vocab": {"a": 2}}}')
        torch.save({"model": Runs(models / "witness")}, models / "hostile.pth")
        document = read(models, {**job, **VOICE, **self.BASE})
        assert document.spec is not None
        assert (document.spec.engine, document.spec.checkpoint) == ("xtts", job["checkpoint"])
        assert isinstance(document.model, Fallback)
        assert document.model.wanted == job["checkpoint"]
        assert reason in document.model.reason
        assert list(problems(models, {**job, **VOICE})) == ["checkpoint"]
        assert not (models / "witness").exists()

    def test_takes_the_default_engine_where_nothing_names_one(self, models: Path) -> None:
        """If that takes checkpoints; else which base model is meant can't be told."""
        for default, checkpoint in (("own", "gone"), ("own", "broken")):
            document = read(models, {"checkpoint": checkpoint, **self.BASE}, default_engine=default)
            assert document.spec is not None
            assert document.spec.engine == "own"
        for checkpoint in ("gone", "broken", "rui"):
            message = problems(models, {"checkpoint": checkpoint, **self.BASE})["checkpoint"]
            assert message.endswith("; name the `engine` whose base model should be used instead")

    def test_is_no_cure_for_an_engine_without_checkpoints(self, models: Path) -> None:
        for engine in ("plain", "nobody"):
            found = problems(models, {"checkpoint": "broken", "engine": engine, **self.BASE})
            assert "base model" not in found["checkpoint"]

    def test_changes_nothing_where_the_checkpoint_is_good_or_none_is_named(self, models: Path) -> None:
        assert chosen(models, {"checkpoint": "anna", **VOICE, **self.BASE}) == ("xtts", "anna", ANNA)
        assert chosen(models, dict(self.BASE)) == ("plain", None, None)

    def test_may_be_the_rule_of_the_configuration(self, models: Path) -> None:
        """A job that says otherwise goes first; its own default checkpoint is meant too."""
        rule: dict[str, Any] = {"defaults": {**self.BASE, "checkpoint": "broken"}, "default_engine": "xtts"}
        document = read(models, {**VOICE}, **rule)
        assert document.spec is not None
        assert document.spec.on_checkpoint_error == "base"
        assert isinstance(document.model, Fallback)
        assert document.model.reason.startswith("defaults.checkpoint in config.yaml: broken.safetensors does not load")
        for job in ({}, {"checkpoint": "broken"}):
            assert list(problems(models, {**job, **VOICE, "on_checkpoint_error": "fail"}, **rule)) == ["checkpoint"]


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
        save(models / "ana.safetensors", xtts()).with_name("vocab.json").write_text(xtts_vocabulary())
        assert set(problems(models, {"checkpoint": "ana"}, defaults=defaults)) == {"speaker_wav"}

    def test_that_is_gone_is_told_and_never_replaced_by_the_base_model(self, models: Path) -> None:
        gone = {"defaults": {"checkpoint": "gone"}}
        for job in ({}, {"engine": "xtts", **VOICE}):
            (message,) = problems(models, job, **gone).values()
            assert message.startswith('defaults.checkpoint in config.yaml: unknown model "gone"')
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

    def test_is_a_recording_where_the_engine_has_no_other(self, models: Path) -> None:
        needs = "continues needs speaker_wav (a recording) and its transcript"
        assert problems(models, {"engine": "continues"}) == {"speaker_wav": needs}
        has_none = "continues has no built-in voices; give speaker_wav, a recording"
        assert problems(models, {"engine": "continues", "speaker": "Zoe"}) == {"speaker": has_none}

    def test_that_is_wrong_is_complained_about_once(self, models: Path) -> None:
        assert set(problems(models, {"engine": "xtts", "speaker_wav": [[]]})) == {"speaker_wav[0]"}
        assert set(problems(models, {"engine": "xtts", "speaker": [3]})) == {"speaker"}
