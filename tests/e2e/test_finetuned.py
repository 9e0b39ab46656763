"""Jobs that name a checkpoint, from the dropped file to the result, with a test engine that takes checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.headers import F5, save
from tests.sounds import recording
from tests.spooling import Spool, spooling, until


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with spooling(tmp_path / "spool") as one:
        yield one


def job(checkpoint: str | None, **more: object) -> str:
    return json.dumps({"text": "Good morning.", "engine": "tuned", "speaker": "x", "checkpoint": checkpoint, **more})


def engine_of(spool: Spool, name: str) -> dict[str, Any]:
    manifest = spool.manifest(name)
    assert manifest["status"] == "done", manifest["error"]
    engine: dict[str, Any] = manifest["engine"]
    return engine


def test_a_job_is_spoken_with_the_checkpoint_that_it_names(spool: Spool) -> None:
    """By any of its names; the manifest says which file that was, what the model says of itself, and its warnings."""
    file = spool.folder / "models/anna/best_model.safetensors"
    save(file, settings={"depth": 0.5, "width": 0.6}, warnings=["its vocabulary was made up"], step=1200)
    spool.drop("a.json", job("anna"))
    spool.drop("b.json", job("anna/best_model", settings={"depth": 0.9}))
    spool.drop("c.json", job("best_model"))
    spool.drop("base.json", job(None))
    assert spool.once().returncode == 0
    facts = {"architecture": "tone", "sha256": sha256(file.read_bytes()).hexdigest(), "step": 1200}
    for name in ("a", "b", "c"):
        assert spool.manifest(name)["warnings"] == ["its vocabulary was made up"]
        assert engine_of(spool, name)["checkpoint"] == {"name": "anna/best_model.safetensors", **facts}
    assert spool.manifest("a")["request"]["checkpoint"] == "anna"
    assert engine_of(spool, "a")["settings"] == {"depth": 0.5, "width": 0.6}
    assert engine_of(spool, "b")["settings"] == {"depth": 0.9, "width": 0.6}
    assert engine_of(spool, "base")["checkpoint"]["name"] is None
    digests = [spool.manifest(name)["audio"][0]["sha256"] for name in ("a", "c", "b", "base")]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_jobs_for_the_loaded_checkpoint_go_first_and_a_replaced_one_is_loaded_anew(spool: Spool) -> None:
    """Two models in turn cost two loads, not six; a better one dropped under the same name costs one more."""
    anna = save(spool.folder / "models/anna/model.safetensors", settings={"depth": 0.1})
    save(spool.folder / "models/rui/model.safetensors", settings={"depth": 0.2})
    (spool.inbox / "PAUSE").touch()
    spool.start()
    for number in range(6):
        spool.drop(f"{number}.json", job("anna" if number % 2 else "rui"))
    until(lambda: spool.status()["counts"]["queued"] == 6)
    (spool.inbox / "PAUSE").unlink()
    loads = {engine_of(spool, str(number))["checkpoint"]["name"]: set[int]() for number in range(6)}
    for number in range(6):
        engine = engine_of(spool, str(number))
        loads[engine["checkpoint"]["name"]].add(engine["loads"])
    assert sorted(map(sorted, loads.values())) == [[1], [2]]
    save(anna, settings={"depth": 0.3})
    for name in ("better", "once-more"):
        spool.drop(f"{name}.json", job("anna"))
        assert engine_of(spool, name)["loads"] in {2, 3}
        assert engine_of(spool, name)["settings"]["depth"] == 0.3
    warm = {"engine": "tuned", "checkpoint": str(anna.resolve())}
    until(lambda: spool.status()["warm"] == warm)


def test_another_folder_of_models_takes_effect_at_once(spool: Spool) -> None:
    """After a reload checkpoints are found there, by the readers and by the worker, which stays the same process."""
    save(spool.folder / "models/anna.safetensors", settings={"depth": 0.1})
    save(spool.folder / "elsewhere/anna.safetensors", settings={"depth": 0.2})
    spool.start()
    spool.drop("a.json", job("anna"))
    before = engine_of(spool, "a")
    spool.config["models"] = str(spool.folder / "elsewhere")
    assert spool.command("reload").stdout == "took effect: models\n"
    spool.drop("b.json", job("anna"))
    after = engine_of(spool, "b")
    assert [one["settings"]["depth"] for one in (before, after)] == [0.1, 0.2]
    assert [one["loads"] for one in (before, after)] == [1, 2]


def test_models_that_would_overlap_a_folder_in_use_do_not_take_effect(spool: Spool) -> None:
    """The file alone is right, but the outbox that it names waits for a restart."""
    spool.start()
    spool.config |= {"outbox": str(spool.folder / "new"), "models": str(spool.outbox / "models")}
    done = spool.command("reload")
    assert done.returncode == 3
    assert "models: is inside outbox" in done.stderr


def test_what_is_wrong_with_a_checkpoint_is_told_before_and_after_dropping(spool: Spool) -> None:
    """`validate` and the daemon say the same, with line and cure, and no worker is started for it."""
    save(spool.folder / "models/anna/one.safetensors")
    save(spool.folder / "models/anna/two.safetensors")
    save(spool.folder / "models/rui.safetensors", F5)
    expected = {
        "typo": ("rvi", 'there is no model "rvi" in models/; there is', "did you mean `rui`?"),
        "several": ("anna", '"anna" fits several models: anna/one.safetensors and anna/two.safetensors', "name one"),
        "other": ("rui", "rui.safetensors is a model for f5 (F5-TTS", "not for tuned; leave `engine` out"),
        "out": ("../secret", "`..` is not allowed", ""),
    }
    for name, (checkpoint, *words) in expected.items():
        path = spool.folder / f"{name}.json"
        path.write_text(job(checkpoint))
        done = spool.command("validate", str(path))
        assert done.returncode == 1
        assert all(word in done.stdout for word in (f"{name}.json:1: checkpoint: ", *words)), done.stdout
        spool.drop(f"{name}.json", job(checkpoint))
    run = spool.once()
    assert run.returncode == 1
    assert "worker started" not in run.stderr
    for name, (_, *words) in expected.items():
        told = (spool.result(f"{name}.failed") / "ERROR.txt").read_text()
        assert all(word in told for word in words), told


def test_what_is_wrong_with_a_recording_is_told_before_the_model_is_loaded(spool: Spool) -> None:
    """The job fails at once, without another try; a bad one is spoken with, and named."""
    save(spool.folder / "models/anna.safetensors")
    spool.drop("noise.wav", b"this is no sound")
    spool.drop("short.wav", recording(2.0))
    for name in ("noise", "short"):
        spool.drop(f"{name}.json", job("anna", speaker=None, speaker_wav=f"{name}.wav"))
    assert spool.once().returncode == 1
    error = spool.manifest("noise.failed")["error"]
    assert (error["code"], error["retryable"]) == ("engine_refused", False)
    assert error["message"].startswith("noise.wav ")
    (warning,) = spool.manifest("short")["warnings"]
    assert warning.startswith("short.wav ")
    assert engine_of(spool, "short")["loads"] == 1
