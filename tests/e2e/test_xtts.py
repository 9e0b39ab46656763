"""XTTS-v2 from the dropped job to the result: the real daemon, its worker, the real library, tiny fine-tuned models."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from engines.xtts.engine import OPTIONS
from tests import tiny
from tests.sounds import recording
from tests.spooling import Spool, below, spooling, until

ANA, VIKTOR = tiny.SPEAKERS
CHUNKS = 16
ROUNDING = 2 / (1 << 15)
"""Two steps of 16-bit audio: chunks of another batch differ by the noise of calculating, which may tip a rounding."""


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A spool of the test's own, without any model."""
    with spooling(tmp_path / "spool", device={"name": "cpu", "precision": "float32"}) as one:
        yield one


def finetuned(base: Path, models: Path, name: str, **said: object) -> Path:
    """A model of its own, as a trainer saves it: under models/NAME, with all that belongs to it."""
    import torch

    state = torch.load(base, weights_only=True)["model"]
    state["gpt.mel_head.bias"] += torch.randn(1026, generator=torch.Generator().manual_seed(len(name)))
    path = tiny.beside(base, models / name).with_name("best_model.pth")
    torch.save({"model": {f"xtts.{key}": tensor for key, tensor in state.items()}, **said}, path)
    return path


def job(checkpoint: str | None, **more: object) -> str:
    return json.dumps({"text": "Who is there?", "language": "en", "checkpoint": checkpoint, "speaker": ANA, **more})


def sound(spool: Spool, name: str) -> NDArray[np.float64]:
    """The samples of a result [n]."""
    manifest = spool.manifest(name)
    assert manifest["status"] == "done", manifest["error"]
    samples, rate_hz = soundfile.read(spool.outbox / name / manifest["audio"][0]["file"])
    assert rate_hz == 24_000
    return np.asarray(samples)


def same(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() <= ROUNDING)


def test_a_job_is_spoken_with_its_model_and_recording(spool: Spool, tiny_xtts: Path) -> None:
    """The manifest tells which they were, and how; the same job gives the same bytes, from the model that is loaded."""
    loss = {"train_loss": 2.5, "eval_loss": 1.5}
    path = finetuned(tiny_xtts, spool.folder / "models", "anna", step=900, model_loss=loss)
    spool.drop("ana.wav", recording())
    settings = {"temperature": 0.6, "speed": 1.25}
    one = job("anna", speaker=None, speaker_wav="ana.wav", language="en-AU", seed=7, settings=settings)
    for name in ("a", "b"):
        spool.drop(f"{name}.json", one)
    run = spool.once()
    assert run.returncode == 0, run.stderr
    manifest = spool.manifest("a")
    engine = manifest["engine"]
    assert {key: engine[key] for key in ("name", "library", "device", "precision", "seed")} == {
        "name": "xtts", "library": "coqui-tts", "device": "cpu", "precision": "float32", "seed": 7,
    }  # fmt: skip
    assert engine["checkpoint"] == {
        "name": "anna/best_model.pth", "sha256": sha256(path.read_bytes()).hexdigest(), "architecture": "XTTS-v2",
        "step": 900, "validation_loss": 1.5,
    }  # fmt: skip
    assert engine["settings"].keys() == {option.name for option in OPTIONS}
    assert {**settings, "repetition_penalty": 5.0, "do_sample": True}.items() <= engine["settings"].items()
    assert manifest["voice"] == {"files": [{"file": "ana.wav", "sha256": sha256(recording()).hexdigest()}]}
    assert (manifest["warnings"], manifest["checks"]["verdict"], manifest["attempts"]) == ([], "ok", 1)
    again = spool.manifest("b")
    assert again["audio"][0]["sha256"] == manifest["audio"][0]["sha256"]
    assert again["engine"] == engine
    assert sorted([manifest["timing"]["load_s"], again["timing"]["load_s"]])[0] == 0.0
    assert sound(spool, "a").size > 24_000 * 0.1


def test_every_segment_has_its_own_voice(spool: Spool, tiny_xtts: Path) -> None:
    """Two speakers and a recording in one file: each sounds as in a job of its own."""
    finetuned(tiny_xtts, spool.folder / "models", "anna")
    spool.drop("eva.wav", recording())
    voices: dict[str, dict[str, object]] = {
        "ana": {"speaker": ANA}, "viktor": {"speaker": VIKTOR}, "eva": {"speaker_wav": "eva.wav"},
    }  # fmt: skip
    text = "This is a sentence of middle length."
    for name, voice in voices.items():
        spool.drop(f"{name}.json", job("anna", text=text, **{"speaker": None, **voice}))
    segments = [{"text": text, "pause_after_ms": 300, **voice} for voice in voices.values()]
    spool.drop("all.json", job("anna", text=None, speaker=None, segments=segments))
    run = spool.once()
    assert run.returncode == 0, run.stderr
    whole, spans = sound(spool, "all"), spool.manifest("all")["segments"]
    for name, span in zip(voices, spans, strict=True):
        start, end = (round(span[edge] * 24_000) for edge in ("start_s", "end_s"))
        assert same(whole[start:end], sound(spool, name))
    assert not same(sound(spool, "ana"), sound(spool, "viktor"))


def test_models_in_turn_leave_no_memory_behind(spool: Spool, tiny_xtts: Path) -> None:
    """One worker speaks with one after the other, each time as the first time; what is not loaded is not in memory."""
    models = {name: finetuned(tiny_xtts, spool.folder / "models", name) for name in ("anna", "ruiz-2")}
    spool.start()
    heard: dict[str, set[str]] = {name: set() for name in models}
    for turn in range(2):
        for name, path in models.items():
            spool.drop(f"{name}-{turn}.json", job(name))
            heard[name].add(spool.manifest(f"{name}-{turn}")["audio"][0]["sha256"])
            warm = {"engine": "xtts", "checkpoint": str(path)}
            until(lambda warm=warm: spool.status()["warm"] == warm, "it stays loaded")  # type: ignore[misc]
            maps = Path(f"/proc/{spool.worker_pid()}/maps").read_text()
            assert [other for other in models.values() if str(other) in maps] == [path]
    assert sorted(map(len, heard.values())) == [1, 1]
    assert heard["anna"] != heard["ruiz-2"]
    assert len(spool.lines("worker_started")) == 1


def test_kill_9_of_the_worker_costs_nothing_that_was_done(spool: Spool, tiny_xtts: Path) -> None:
    """Another worker goes on, and what comes of it is what comes without a kill."""
    finetuned(tiny_xtts, spool.folder / "models", "anna")
    text = " ".join(f"This is number {number} of many." for number in range(CHUNKS))
    spool.start()
    spool.drop("a.json", job("anna", text=text))
    worker = spool.worker_pid()
    until(lambda: kept(spool), "a first chunk is done")
    os.kill(worker, signal.SIGKILL)
    assert len(kept(spool)) < CHUNKS
    until(lambda: spool.lines("worker_died"), "its death is noticed")
    spool.drop("b.json", job("anna", text=text))
    assert spool.manifest("a")["attempts"] == 2
    assert spool.manifest("b")["attempts"] == 1
    assert same(sound(spool, "a"), sound(spool, "b"))
    first, second = (line["pid"] for line in spool.lines("worker_started"))
    assert first == worker != second
    assert spool.stop() == 0


def kept(spool: Spool) -> list[Path]:
    """Finished chunks of the jobs that are claimed."""
    return below(spool.state / "claimed", "*.chunk")


def test_without_the_base_model_a_job_says_which_command_brings_it(spool: Spool, tmp_path: Path) -> None:
    """At once, without another try."""
    nowhere = dict.fromkeys(("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TTS_HOME", "XDG_DATA_HOME"), "")
    spool.drop("a.json", job(None, engine="xtts"))
    run = spool.once(HOME=str(tmp_path), XDG_CACHE_HOME="", **nowhere)
    assert run.returncode == 1
    manifest: dict[str, Any] = spool.manifest("a.failed")
    error = manifest["error"]
    assert (error["code"], error["retryable"], manifest["attempts"]) == ("engine_missing", False, 1)
    for told in (error["hint"], (spool.outbox / "a.failed/ERROR.txt").read_text()):
        assert "voicespool models pull xtts" in told
