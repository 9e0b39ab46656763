"""What `defaults` in config.yaml may say about checkpoints and voices, and what is found before the spool starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines import registry
from jobs.errors import ConfigError
from jobs.spec.checkpoint_names import Models
from jobs.spec.parse import parse
from tests.headers import F5, save
from tests.spooling import PLUGINS
from watcher.config.job_rules import job_rules
from watcher.config.settings import load


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test engines: `tuned` takes checkpoints and needs a voice."""
    monkeypatch.syspath_prepend(PLUGINS)
    registry.engines.cache_clear()
    yield
    registry.engines.cache_clear()


def problems(folder: Path, **defaults: Any) -> list[str]:
    """What the start of the spool complains about."""
    (folder / "config.yaml").write_text(json.dumps({"defaults": defaults}))
    with pytest.raises(ConfigError) as error:
        job_rules(load(folder / "config.yaml"))
    return error.value.message.splitlines()


def job(folder: Path, content: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """A job as it is understood under these defaults."""
    (folder / "config.yaml").write_text(json.dumps({"defaults": defaults}))
    (document,) = parse(json.dumps({"text": "a", **content}).encode(), ".json", job_rules(load(folder / "config.yaml")))
    assert document.spec is not None, document.problems
    return document.spec.model_dump(exclude_unset=True)


def test_a_checkpoint_that_is_not_there_or_does_not_fit_ends_the_start(tmp_path: Path) -> None:
    """Else thousands of jobs would fail one by one."""
    rui = save(tmp_path / "models/rui.safetensors", F5)
    (found,) = problems(tmp_path, checkpoint="anna")
    assert found.startswith('defaults.checkpoint: unknown model "anna"; available in models/: rui.safetensors')
    os.truncate(rui, rui.stat().st_size - 1)
    (found,) = problems(tmp_path, checkpoint="rui")
    assert found.startswith("defaults.checkpoint: rui.safetensors does not load: The file can't be used")
    assert problems(tmp_path, checkpoint="../rui") == [
        'defaults.checkpoint: found "../rui"; `..` is not allowed in a file name'
    ]


def test_an_engine_beside_the_checkpoint_is_for_jobs_that_it_is_not_for(tmp_path: Path) -> None:
    """The documented config.yaml names espeak; who adds a checkpoint need not take that away."""
    save(tmp_path / "models/anna.safetensors")
    defaults = {"engine": "tuned", "checkpoint": "anna", "speaker": "Zoe", "settings": {"depth": 0.5}}
    assert job(tmp_path, {}, **defaults)["engine"] == "tuned"
    assert job(tmp_path, {}, **defaults)["checkpoint"] == "anna"
    assert job(tmp_path, {"engine": "espeak"}, **defaults)["checkpoint"] is None
    found = problems(tmp_path, **{**defaults, "engine": "espoke"})
    assert found[-1].startswith('defaults.engine: unknown engine "espoke"')


def test_an_engine_that_needs_a_voice_may_get_it_from_each_job(tmp_path: Path) -> None:
    """What the defaults do not say is no fault of theirs."""
    assert job(tmp_path, {"speaker": "x"}, engine="tuned")["engine"] == "tuned"
    assert job(tmp_path, {}, engine="tuned", speaker="x")["speaker"] == "x"


def test_the_name_is_looked_up_in_the_configured_folder_and_allowed_roots(tmp_path: Path) -> None:
    far = save(tmp_path / "far/anna.safetensors").resolve()
    config = {"models": "elsewhere", "allowed_roots": ["far"], "defaults": {"engine": "tuned", "checkpoint": str(far)}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    rules = job_rules(load(tmp_path / "config.yaml"))
    assert isinstance(rules.models, Models)
    assert rules.models.folder == tmp_path / "elsewhere"
    assert rules.models.find(str(far)) == far


def test_limits_of_the_configuration_are_limits_of_job_files(tmp_path: Path) -> None:
    """Each fails by the name of its key, in the defaults too."""
    limits = {"recordings": 1, "recording_uses": 2, "speaker_text_chars": 5}
    (tmp_path / "config.yaml").write_text(json.dumps({"limits": limits}))
    rules = job_rules(load(tmp_path / "config.yaml"))
    assert (rules.recordings, rules.recording_uses, rules.speaker_text_chars) == (1, 2, 5)
    voice = {"speaker_wav": "ana.wav", "speaker_text": "too long"}
    (tmp_path / "config.yaml").write_text(json.dumps({"limits": limits, "defaults": voice}))
    with pytest.raises(ConfigError, match=r"limits\.speaker_text_chars"):
        job_rules(load(tmp_path / "config.yaml"))
