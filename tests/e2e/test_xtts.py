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
ANNA, RUIZ = "anna", "ruiz-2"
STEP, LOSS = 900, 1.5
CHUNKS = 16
ROUNDING = 2 / (1 << 15)
"""Two steps of 16-bit audio: chunks of another batch differ by the noise of calculating, which may tip a rounding."""


@pytest.fixture(scope="module")
def spool(tiny_xtts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spool]:
    """A spool with a running daemon and two fine-tuned models. All tests share it: importing the library in one worker
    takes longer than all their jobs.
    """
    with spooling(tmp_path_factory.mktemp("studio"), device={"name": "cpu", "precision": "float32"}) as one:
        finetuned(tiny_xtts, one.folder / "models", ANNA, step=STEP, model_loss={"train_loss": 2.5, "eval_loss": LOSS})
        finetuned(tiny_xtts, one.folder / "models", RUIZ)
        one.start()
        yield one
        assert one.stop() == 0


def weights(spool: Spool, name: str) -> Path:
    return spool.folder / "models" / name / "best_model.pth"


def finetuned(base: Path, models: Path, name: str, **said: object) -> None:
    """A model of its own, as a trainer saves it: under models/NAME, with all that belongs to it."""
    import torch

    state = torch.load(base, weights_only=True)["model"]
    state["gpt.mel_head.bias"] += torch.randn(1026, generator=torch.Generator().manual_seed(len(name)))
    path = tiny.beside(base, models / name).with_name("best_model.pth")
    torch.save({"model": {f"xtts.{key}": tensor for key, tensor in state.items()}, **said}, path)


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


def test_a_job_is_spoken_with_its_model_and_recording(spool: Spool) -> None:
    """The manifest tells which they were, and how; the same job gives the same bytes, from the model that is loaded."""
    spool.drop("ana.wav", recording())
    settings = {"temperature": 0.6, "speed": 1.25}
    one = job(ANNA, speaker=None, speaker_wav="ana.wav", language="en-AU", seed=7, settings=settings)
    for name in ("a", "b"):
        spool.drop(f"{name}.json", one)
    assert sound(spool, "a").size > 24_000 * 0.1
    manifest = spool.manifest("a")
    engine = manifest["engine"]
    assert {key: engine[key] for key in ("name", "library", "device", "precision", "seed")} == {
        "name": "xtts", "library": "coqui-tts", "device": "cpu", "precision": "float32", "seed": 7,
    }  # fmt: skip
    assert engine["checkpoint"] == {
        "name": f"{ANNA}/best_model.pth", "sha256": sha256(weights(spool, ANNA).read_bytes()).hexdigest(),
        "architecture": "XTTS-v2", "step": STEP, "validation_loss": LOSS,
    }  # fmt: skip
    assert engine["settings"].keys() == {option.name for option in OPTIONS}
    assert {**settings, "repetition_penalty": 5.0, "do_sample": True}.items() <= engine["settings"].items()
    assert manifest["voice"] == {"files": [{"file": "ana.wav", "sha256": sha256(recording()).hexdigest()}]}
    assert (manifest["warnings"], manifest["checks"]["verdict"], manifest["attempts"]) == ([], "ok", 1)
    again = spool.manifest("b")
    assert again["audio"][0]["sha256"] == manifest["audio"][0]["sha256"]
    assert again["engine"] == engine
    assert sorted([manifest["timing"]["load_s"], again["timing"]["load_s"]])[0] == 0.0


def test_every_segment_has_its_own_voice(spool: Spool) -> None:
    """Two speakers and a recording in one file: each sounds as in a job of its own."""
    spool.drop("eva.wav", recording())
    voices: dict[str, dict[str, object]] = {
        "ana": {"speaker": ANA}, "viktor": {"speaker": VIKTOR}, "eva": {"speaker_wav": "eva.wav"},
    }  # fmt: skip
    text = "This is a sentence of middle length."
    for name, voice in voices.items():
        spool.drop(f"{name}.json", job(ANNA, text=text, **{"speaker": None, **voice}))
    segments = [{"text": text, "pause_after_ms": 300, **voice} for voice in voices.values()]
    spool.drop("all.json", job(ANNA, text=None, speaker=None, segments=segments))
    whole, spans = sound(spool, "all"), spool.manifest("all")["segments"]
    for name, span in zip(voices, spans, strict=True):
        start, end = (round(span[edge] * 24_000) for edge in ("start_s", "end_s"))
        assert same(whole[start:end], sound(spool, name))
    assert not same(sound(spool, "ana"), sound(spool, "viktor"))


def test_models_in_turn_leave_no_memory_behind(spool: Spool) -> None:
    """One worker speaks with one after the other, each time as the first time; what is not loaded is not in memory."""
    models = {name: weights(spool, name) for name in (ANNA, RUIZ)}
    heard: dict[str, set[str]] = {name: set() for name in models}
    workers = set()
    for turn in range(2):
        for name, path in models.items():
            spool.drop(f"{name}-{turn}.json", job(name))
            heard[name].add(spool.manifest(f"{name}-{turn}")["audio"][0]["sha256"])
            warm = {"engine": "xtts", "checkpoint": str(path)}
            until(lambda warm=warm: spool.status()["warm"] == warm, "it stays loaded")  # type: ignore[misc]
            workers.add(spool.worker_pid())
            maps = Path(f"/proc/{spool.worker_pid()}/maps").read_text()
            assert [other for other in models.values() if str(other) in maps] == [path]
    assert sorted(map(len, heard.values())) == [1, 1]
    assert heard[ANNA] != heard[RUIZ]
    assert len(workers) == 1


def test_kill_9_of_the_worker_costs_nothing_that_was_done(spool: Spool) -> None:
    """Another worker goes on, and what comes of it is what comes without a kill."""
    text = " ".join(f"This is number {number} of many." for number in range(CHUNKS))
    spool.drop("killed.json", job(ANNA, text=text))
    worker = spool.worker_pid()
    until(lambda: kept(spool), "a first chunk is done")
    os.kill(worker, signal.SIGKILL)
    assert len(kept(spool)) < CHUNKS
    until(lambda: worker in [line["pid"] for line in spool.lines("worker_died")], "its death is noticed")
    spool.drop("whole.json", job(ANNA, text=text))
    assert spool.manifest("killed")["attempts"] == 2
    assert spool.manifest("whole")["attempts"] == 1
    assert same(sound(spool, "killed"), sound(spool, "whole"))
    first, second = (line["pid"] for line in spool.lines("worker_started")[-2:])
    assert first == worker != second


def kept(spool: Spool) -> list[Path]:
    """Finished chunks of the jobs that are claimed."""
    return below(spool.state / "claimed", "*.chunk")


def test_without_the_base_model_a_job_says_which_command_brings_it(tmp_path: Path) -> None:
    """At once, without another try."""
    nowhere = dict.fromkeys(("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TTS_HOME", "XDG_DATA_HOME"), "")
    with spooling(tmp_path / "spool") as spool:
        spool.drop("a.json", job(None, engine="xtts"))
        run = spool.once(HOME=str(tmp_path), XDG_CACHE_HOME="", **nowhere)
        assert run.returncode == 1
        manifest: dict[str, Any] = spool.manifest("a.failed")
        error = manifest["error"]
        assert (error["code"], error["retryable"], manifest["attempts"]) == ("engine_missing", False, 1)
        for told in (error["hint"], (spool.outbox / "a.failed/ERROR.txt").read_text()):
            assert "voicespool models pull xtts" in told
