"""Measures the memory of its own process: `python -m tests.resident TASK ENGINE ARGUMENT...` prints bytes as JSON.
`tests/process_memory.py` describes what is counted.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tiny_f5
from engines.base import Chunk, Device, Engine, EngineClass
from engines.checkpoints import base_models
from engines.checkpoints.reference import CheckpointRef
from engines.device import allowance, runtime
from engines.f5.engine import F5
from engines.xtts.engine import Xtts
from jobs.order import Order
from tests import f5_models, sounds, tiny
from tests.process_memory import forget, most, now
from tests.rendered import rendered
from tests.spooling import ROOT
from watcher.executors.local.warm_engine import WarmEngine

MB = 1 << 20
ENGINES: Mapping[str, EngineClass] = {"xtts": Xtts, "f5": F5}
TRANSCRIPT = "As many words as somebody says in two seconds."

Taken = Mapping[str, Any]


MODELS_VARIABLE = "RESIDENT_MODELS"
"""For the process that is measured: where base models and vocoders are."""


def models_here() -> Path | None:
    return Path(os.environ[MODELS_VARIABLE]) if MODELS_VARIABLE in os.environ else None


def measured(task: str, engine: str, *arguments: object, models: Path | None = None) -> Any:
    """Run a task in a new process and return its measurements.

    Args:
        models: The folder with base models and vocoders.
    """
    own = {"OMP_NUM_THREADS": str(allowance.processors()), "PYTHONPATH": str(ROOT / "examples")}
    own |= {} if models is None else {MODELS_VARIABLE: str(models)}
    command = [sys.executable, "-m", "tests.resident", task, engine, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Speaker:
    """Renders chunks with an engine.

    Attributes:
        name: Of the engine.
        folder: For recordings.
    """

    name: str
    folder: Path

    def load(self, checkpoint: str, precision: str = "float32", profile: str = "auto") -> Engine:
        engine = ENGINES[self.name]()
        engine.load(Path(checkpoint), Device("cpu", precision, profile, models=models_here()))
        return engine

    def chunk(self, text: str = "Who is there?", number: int = 1) -> Chunk:
        """Chunks of different numbers differ in voice and settings; every fourth has its own recording."""
        settings: dict[str, float] = {"speed": 0.8 + number % 13 / 20}
        if self.name == "f5":
            settings |= {"nfe_step": 1 + number % 3, "cfg_strength": number % 2 * 2.0}
            heard = self._recording(number - number % 4)
            return Chunk(text, "en", number, recordings=(heard,), speaker_text=TRANSCRIPT, settings=settings)
        settings["temperature"] = 0.5 + number % 7 / 10
        if number % 4 == 0:
            return Chunk(text, "en", number, recordings=(self._recording(number),), settings=settings)
        return Chunk(text, "en", number, speaker=tiny.SPEAKERS[number % 2], settings=settings)

    def _recording(self, number: int) -> Path:
        path = self.folder / f"{number}.wav"
        return path if path.exists() else sounds.save(path, sounds.speech(2 + number / 100))


def speak(engine: Engine, *chunks: Chunk) -> int:
    """Render chunks, and return the number of samples."""
    return sum(audio.samples.size for audio in rendered(engine, *chunks))


def loading(speaker: Speaker, small: str, checkpoint: str, precision: str, profile: str) -> Taken:
    """Memory for loading a model and rendering a first sentence, beyond what the libraries take.

    Args:
        small: A tiny model that is loaded and used before, so that all code is in memory.
    """
    engine = speaker.load(small, precision, profile)
    speak(engine, speaker.chunk())
    engine.close()
    before = now()
    forget()
    engine = speaker.load(checkpoint, precision, profile)
    loaded = most() - before
    speak(engine, speaker.chunk())
    spoken, kept = most() - before, now() - before
    engine.close()
    return {"loading": loaded, "speaking": spoken, "kept": kept, "closed": now() - before}


def switching(speaker: Speaker, small: str, *checkpoints: str) -> Taken:
    """The maximum memory of each turn while the worker's engine loads one model after the other."""
    warm = WarmEngine()
    speak(_engine(warm, speaker, small), speaker.chunk())
    warm.release()
    before, turns = now(), []
    for checkpoint in checkpoints:
        forget()
        speak(_engine(warm, speaker, checkpoint), speaker.chunk())
        turns.append(most() - before)
    return {"turns": turns}


def _engine(warm: WarmEngine, speaker: Speaker, checkpoint: str) -> Engine:
    device = {"name": "cpu", "precision": "float32"}
    order = Order(
        "id",
        "hello",
        {},
        speaker.name,
        CheckpointRef(Path(checkpoint), "measured"),
        {},
        {},
        "",
        "",
        device,
        models=str(models_here() or ""),
    )
    return warm.for_order(order, ENGINES[speaker.name]).engine


def batch(speaker: Speaker, checkpoint: str, rows: str) -> Taken:
    """Memory of a batch of chunks, and the prediction of the formula."""
    return {"xtts": _decoded, "f5": _sampled}[speaker.name](Path(checkpoint), int(rows))


def _decoded(checkpoint: Path, rows: int) -> Taken:
    """Decode each chunk to the maximum length."""
    import torch

    from engines.torch.sampling import SamplingParams
    from engines.xtts.net.gpt import Utterance

    model = tiny.load(checkpoint)
    gpt, voice = model.gpt, torch.randn(1, 32, model.gpt.model_dim)
    model.library.gpt.mel_head.bias[gpt.stop_audio_token] = -1e4  # no chunk ends by itself
    tokens = model.tokenize("This is a sentence of middle length.", "en")
    some = [Utterance((number, 0), tokens, voice, SamplingParams(), number) for number in range(rows)]
    for group in gpt.generate(tiny.given(some[:1]), 1):
        del group

    def decode() -> None:
        spoken = [utterance for group in gpt.generate(tiny.given(some), len(some)) for utterance in group]
        assert {len(utterance.codes) for utterance in spoken} == {gpt.max_gen_mel_tokens}

    positions = gpt.max_seq_len(some[0])
    predicted = len(some) * (gpt.row_bytes(positions) + gpt.prefill_bytes(positions))
    return {"taken": _taken_by(decode), "predicted": predicted}


def _sampled(checkpoint: Path, rows: int) -> Taken:
    """Render chunks as long as fit into one batch."""
    f5_models.prepare()
    from engines.f5.net.flow import SolverSettings
    from engines.f5.net.model import MAX_FRAMES

    kind = tiny_f5.KINDS["f5-v1-base"]
    model = f5_models.Built(checkpoint, base_models.require("vocos", models_here()), kind.full, kind.flags).load()
    frames = MAX_FRAMES["cpu"] // 2 // rows
    lengths = [(frames // 4, frames // 8, frames)]
    some = [f5_models.request(kind.full, 0, SolverSettings(2), number, lengths) for number in range(rows)]
    predicted = sum(model.request_bytes(request) for request in some)
    assert len(list(model._batches(some, predicted))) == 1

    def sample() -> None:
        assert len([result for result in model.render(some, kind.flags, predicted) if result is not None]) == rows

    sample()  # so that kernels for these lengths are loaded
    return {"taken": _taken_by(sample), "predicted": predicted}


def _taken_by(work: Callable[[], None]) -> int:
    """The maximum memory during some work, in bytes more than before it."""
    gc.collect()
    runtime.release("cpu")
    before = now()
    forget()
    work()
    return most() - before


def jobs(speaker: Speaker, checkpoint: str, count: str) -> Taken:
    """Memory after each of many small jobs that all differ in text, number of chunks, voice and settings; some have a
    recording.
    """
    engine, after = speaker.load(checkpoint), []
    for number in range(int(count)):
        texts = [f"Job number {number} says: {'so ' * (number % 17 + part)}" for part in range(1 + number % 3)]
        assert speak(engine, *(speaker.chunk(text, number) for text in texts))
        after.append(now())
    return {"after": after}


TASKS: Mapping[str, Callable[..., Taken]] = {
    "loading": loading,
    "switching": switching,
    "batch": batch,
    "jobs": jobs,
}


def main(arguments: Sequence[str]) -> None:
    task, engine, *rest = arguments
    with TemporaryDirectory() as folder:
        print(json.dumps(TASKS[task](Speaker(engine, Path(folder)), *rest)))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main(sys.argv[1:])
