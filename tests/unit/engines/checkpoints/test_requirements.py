"""What a checkpoint lacks on this machine: commands and the daemon say it beforehand, as the engine would."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engines.base import Device
from engines.checkpoints import base_models, inspection, requirements
from engines.errors import EngineMissing
from engines.f5.engine import F5
from engines.xtts.engine import Xtts
from jobs.order import Fallback
from tests import headers
from watcher.client.validate import Checked, check
from watcher.config.job_rules import job_rules
from watcher.config.settings import Config, load
from watcher.models import checkpoints as models


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No base model of this machine's user."""
    for variable in ("HF_HOME", "HF_HUB_CACHE", "TTS_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in ("inbox", "models", "voices"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.yaml").write_text("")
    return load(tmp_path / "config.yaml")


def checked(config: Config, **keys: object) -> Checked:
    path = config.inbox.parent / "job.json"
    recording = config.voices / "ana.wav"
    recording.write_bytes(b"RIFF")
    job = {"text": "Hello.", "language": "en", "speaker_wav": "ana.wav", "speaker_text": "Hi.", **keys}
    path.write_text(json.dumps(job))
    return check(path, config, job_rules(config))


def as_installed(monkeypatch: pytest.MonkeyPatch, *engines: type) -> None:
    """Whether a library is on the machine of the test is another question."""
    for engine in engines:
        info = engine.info()  # type: ignore[attr-defined]
        monkeypatch.setattr(engine, "info", classmethod(lambda _, info=info: replace(info, missing=None)))


def test_an_xtts_without_a_vocabulary_needs_the_base_model(
    config: Config, tiny_xtts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """list, show, validate and the daemon say so with the cure; with a vocab.json, or the base model, all is well."""
    as_installed(monkeypatch, Xtts)
    mine = config.models / "anna/model.pth"
    mine.parent.mkdir()
    shutil.copy(tiny_xtts, mine)
    sentence = "here is no vocab.json next to model.pth, and no base model to take it from"
    one = models.find(config, "anna")
    assert not one.loads
    assert sentence in one.why_not
    assert "voicespool models pull xtts" in one.cure
    (problem,) = checked(config, checkpoint="anna").problems
    assert problem.key == "checkpoint"
    assert sentence in problem.message
    assert "voicespool models pull xtts" in problem.message
    with pytest.raises(EngineMissing, match="here is no vocab"):
        requirements.check(requirements.of(inspection.inspect(mine)), config.models)
    shutil.copytree(tiny_xtts.parent, config.models / "xtts-v2")
    assert models.find(config, "anna").loads
    assert checked(config, checkpoint="anna").problems == ()
    shutil.rmtree(config.models / "xtts-v2")
    assert checked(config, checkpoint="anna").problems, "what was there before is asked for anew"
    shutil.copy(tiny_xtts.with_name("vocab.json"), mine.parent)
    assert models.find(config, "anna").loads
    assert checked(config, checkpoint="anna").problems == ()


def test_an_f5_needs_its_vocoder(config: Config, tiny_f5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own weights and vocabulary are not enough."""
    as_installed(monkeypatch, F5)
    mine = config.models / "rui"
    shutil.copytree(tiny_f5.parent, mine)
    there = models.find(config, f"rui/{tiny_f5.name}")
    assert not there.loads
    assert "Vocos" in there.why_not
    assert "voicespool models pull vocos" in there.cure
    (problem,) = checked(config, checkpoint=f"rui/{tiny_f5.name}").problems
    assert "Vocos" in problem.message
    shutil.copytree(base_models.require("vocos", tiny_f5.parents[1]), config.models / "vocos-mel-24khz")
    assert models.find(config, f"rui/{tiny_f5.name}").loads
    assert checked(config, checkpoint=f"rui/{tiny_f5.name}").problems == ()


def test_an_f5_whose_vocabulary_is_the_library_s_needs_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it there is nothing to take it from."""
    monkeypatch.setattr("engines.checkpoints.f5_vocabulary.find_spec", lambda _name: None)
    found = inspection.inspect(headers.save(tmp_path / "model.safetensors", headers.F5))
    missing = requirements.missing(requirements.of(found), tmp_path)
    assert missing is not None
    assert "there is no vocab.txt next to model.safetensors" in missing.message


def test_instead_of_a_checkpoint_that_lacks_something_the_base_model_is_used_where_the_job_allows_it(
    config: Config, tiny_f5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model for BigVGAN without BigVGAN; the base model has its own vocoder."""
    as_installed(monkeypatch, F5)
    shutil.copytree(tiny_f5.parent, config.models / "f5-tts-v1")
    shutil.copytree(base_models.require("vocos", tiny_f5.parents[1]), config.models / "vocos-mel-24khz")
    mine = config.models / "rui/model.safetensors"
    shutil.copytree(tiny_f5.parent, mine.parent)
    (mine.parent / tiny_f5.name).rename(mine)
    mine.with_suffix(".yaml").write_text("variant: v1\nvocoder: bigvgan\n")
    one = checked(config, checkpoint="rui/model", on_checkpoint_error="base")
    assert one.problems == ()
    assert isinstance(one.documents[0].model, Fallback)
    assert "BigVGAN" in str(one.documents[0].model)
    assert any("BigVGAN" in warning for warning in one.warnings())
    assert checked(config, checkpoint="rui/model").problems


@pytest.mark.parametrize(("engine", "title"), [("xtts", "XTTS-v2"), ("f5", "F5-TTS v1 Base")])
def test_a_job_for_a_base_model_that_is_not_here(
    config: Config, monkeypatch: pytest.MonkeyPatch, engine: str, title: str
) -> None:
    """validate says what the engine would; where the engine is not installed either, that is a warning alone."""
    as_installed(monkeypatch, Xtts, F5)
    (problem,) = checked(config, engine=engine).problems
    assert f"the model {title} is not on this machine" in problem.message
    assert f"voicespool models pull {engine}" in problem.message
    info = replace({"xtts": Xtts, "f5": F5}[engine].info(), missing="pip install something")
    monkeypatch.setattr({"xtts": Xtts, "f5": F5}[engine], "info", classmethod(lambda _: info))
    one = checked(config, engine=engine)
    assert one.problems == ()
    assert any(
        "is not installed on this machine; to install it: pip install something" in words for words in one.warnings()
    )


def test_the_engine_says_the_same(config: Config, tiny_xtts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it loads a model that lost its vocabulary after the job was checked."""
    monkeypatch.setattr("engines.xtts.engine._version", lambda: "1")
    mine = config.models / "anna/model.pth"
    mine.parent.mkdir()
    shutil.copy(tiny_xtts, mine)
    missing = requirements.missing(requirements.of(inspection.inspect(mine)), config.models)
    assert missing is not None
    with pytest.raises(EngineMissing) as raised:
        Xtts().load(mine, Device(models=config.models))
    assert (raised.value.message, raised.value.hint) == (missing.message, missing.hint)
