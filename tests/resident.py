"""How much memory a process takes, told by itself: `python -m tests.resident TASK ENGINE ARGUMENT...` prints JSON, in
bytes.

`tests/process_memory.py` says what is counted.
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
from tests.spooling import ROOT
from watcher.executors.local.main import WarmEngine

MB = 1 << 20
ENGINES: Mapping[str, EngineClass] = {"xtts": Xtts, "f5": F5}
SAID = "As many words as somebody says in two seconds."

Taken = Mapping[str, Any]


MODELS_VARIABLE = "RESIDENT_MODELS"
"""For the process that is measured: where base models and vocoders are."""


def models_here() -> Path | None:
    return Path(os.environ[MODELS_VARIABLE]) if MODELS_VARIABLE in os.environ else None


def measured(task: str, engine: str, *arguments: object, models: Path | None = None) -> Any:
    """What a process of its own tells of a task.

    Args:
        models: Where base models and vocoders are looked for.
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
    """Speaks with an engine.

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
        """Chunks of other numbers differ in voice and settings; each fourth has a recording of its own."""
        settings: dict[str, float] = {"speed": 0.8 + number % 13 / 20}
        if self.name == "f5":
            settings |= {"nfe_step": 1 + number % 3, "cfg_strength": number % 2 * 2.0}
            heard = self._recording(number - number % 4)
            return Chunk(text, "en", number, recordings=(heard,), speaker_text=SAID, settings=settings)
        settings["temperature"] = 0.5 + number % 7 / 10
        if number % 4 == 0:
            return Chunk(text, "en", number, recordings=(self._recording(number),), settings=settings)
        return Chunk(text, "en", number, speaker=tiny.SPEAKERS[number % 2], settings=settings)

    def _recording(self, number: int) -> Path:
        path = self.folder / f"{number}.wav"
        return path if path.exists() else sounds.save(path, sounds.speech(2 + number / 100))


def speak(engine: Engine, *chunks: Chunk) -> int:
    """How many samples come of chunks."""
    return sum(one[1].samples.size for one in engine.render(chunks) if one is not None)


def loading(speaker: Speaker, small: str, checkpoint: str, precision: str, profile: str) -> Taken:
    """Loading a model and speaking a first sentence with it, beyond what the libraries take.

    Args:
        small: A tiny model, which is loaded and spoken with before, so that all code is there.
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
    """The worker's engine, loaded with one model after the other: the most that each turn takes."""
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
    """So many chunks at a time; and what the formula says."""
    return {"xtts": _decoded, "f5": _sampled}[speaker.name](Path(checkpoint), int(rows))


def _decoded(checkpoint: Path, rows: int) -> Taken:
    """Each to the longest that there is."""
    import torch

    from engines.torch.sampling import SamplingParams
    from engines.xtts.net.gpt import Utterance

    model = tiny.load(checkpoint)
    gpt, voice = model.gpt, torch.randn(1, 32, model.gpt.model_dim)
    model.library.gpt.mel_head.bias[gpt.stop_audio_token] = -1e4  # none stops by itself
    tokens = model.tokenize("This is a sentence of middle length.", "en")
    some = [Utterance((number, 0), tokens, voice, SamplingParams(), number) for number in range(rows)]
    for group in gpt.generate(some[:1], 1):
        del group

    def decode() -> None:
        spoken = [one for group in gpt.generate(some, len(some)) for one in group]
        assert {len(one.codes) for one in spoken} == {gpt.max_gen_mel_tokens}

    said = len(some) * (gpt.row_bytes(some[0]) + gpt.prefill_bytes(some[0]))
    return {"taken": _taken_by(decode), "said": said}


def _sampled(checkpoint: Path, rows: int) -> Taken:
    """All as long as fit into one batch together."""
    f5_models.prepare()
    from engines.f5.net.flow import SolverSettings
    from engines.f5.net.model import MAX_FRAMES

    kind = tiny_f5.KINDS["f5-v1-base"]
    model = f5_models.Built(checkpoint, base_models.require("vocos", models_here()), kind.full, kind.flags).load()
    frames = MAX_FRAMES["cpu"] // 2 // rows
    lengths = [(frames // 4, frames // 8, frames)]
    some = [f5_models.request(kind.full, 0, SolverSettings(2), number, lengths) for number in range(rows)]
    said = sum(model.request_bytes(one) for one in some)
    assert len(list(model._batches(some, said))) == 1

    def sample() -> None:
        assert len([one for one in model.render(some, kind.flags, said) if one is not None]) == rows

    sample()  # kernels for these lengths are there from now on
    return {"taken": _taken_by(sample), "said": said}


def _taken_by(work: Callable[[], None]) -> int:
    """The most memory at any time of some work, in bytes beyond what was there before."""
    gc.collect()
    runtime.release("cpu")
    before = now()
    forget()
    work()
    return most() - before


def jobs(speaker: Speaker, checkpoint: str, count: str) -> Taken:
    """After each of many small jobs that all differ: texts, numbers of chunks, voices, settings; some with a recording
    of their own.
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
