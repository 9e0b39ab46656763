"""How much memory a process takes, told by itself: `python -m tests.resident TASK ARGUMENT...` prints JSON, in bytes.

`tests/process_memory.py` says what is counted.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engines import runtime
from engines.base import Chunk, Device
from engines.xtts import Xtts
from jobs.order import Order
from tests import sounds, tiny
from tests.process_memory import forget, most, now
from watcher.worker_main import WarmEngine

Taken = Mapping[str, Any]


def speak(engine: Xtts, *chunks: Chunk) -> int:
    """How many samples come of chunks; by default of one."""
    made = engine.render(chunks or [Chunk("Who is there?", "en", 7, speaker=tiny.SPEAKERS[0])])
    return sum(one[1].samples.size for one in made if one is not None)


def loading(small: str, checkpoint: str, precision: str) -> Taken:
    """Loading a model and speaking a first sentence with it, beyond what the libraries take.

    Args:
        small: A tiny model, which is loaded and spoken with before, so that all code is there.
    """
    engine = Xtts()
    engine.load(Path(small), Device("cpu", precision))
    speak(engine)
    engine.close()
    before = now()
    forget()
    engine.load(Path(checkpoint), Device("cpu", precision))
    loaded = most() - before
    speak(engine)
    spoken, kept = most() - before, now() - before
    engine.close()
    return {"loading": loaded, "speaking": spoken, "kept": kept, "closed": now() - before}


def switching(small: str, *checkpoints: str) -> Taken:
    """The worker's engine, loaded with one model after the other: the most that each turn takes."""
    warm = WarmEngine()
    speak(_engine(warm, small))
    warm.release()
    before, turns = now(), []
    for checkpoint in checkpoints:
        forget()
        speak(_engine(warm, checkpoint))
        turns.append(most() - before)
    return {"turns": turns}


def _engine(warm: WarmEngine, checkpoint: str) -> Xtts:
    device = {"name": "cpu", "precision": "float32"}
    order = Order("id", "hello", {}, "xtts", checkpoint, {}, {}, "", "", device)
    engine = warm.for_order(order, Xtts).engine
    assert isinstance(engine, Xtts)
    return engine


def batch(checkpoint: str, rows: str) -> Taken:
    """Decoding so many rows at a time, each to the longest that there is; and what the formula says."""
    import torch

    from engines.neural.sampling import Sampling
    from engines.neural.xtts_gpt import Utterance

    model = tiny.load(Path(checkpoint))
    gpt, voice = model.gpt, torch.randn(1, 32, model.gpt.channels)
    model.library.gpt.mel_head.bias[gpt.stop] = -1e4  # none stops by itself
    tokens = model.tokens("This is a sentence of middle length.", "en")
    some = [Utterance((number, 0), tokens, voice, Sampling(), number) for number in range(int(rows))]
    for group in gpt.decode(some[:1], 1):
        del group
    gc.collect()
    runtime.release("cpu")
    before = now()
    forget()
    spoken = [one for group in gpt.decode(some, len(some)) for one in group]
    assert {len(one.codes) for one in spoken} == {gpt.limit}
    return {"taken": most() - before, "said": len(some) * (gpt.row_bytes(some[0]) + gpt.reading_bytes(some[0]))}


def jobs(checkpoint: str, count: str) -> Taken:
    """After each of many small jobs that all differ: texts, numbers of chunks, voices, settings; some with a recording
    of their own.
    """
    engine, after = Xtts(), []
    engine.load(Path(checkpoint), Device("cpu", "float32"))
    with TemporaryDirectory() as folder:
        for number in range(int(count)):
            recordings: tuple[Path, ...] = ()
            if number % 4 == 0:
                recordings = (sounds.save(Path(folder, f"{number}.wav"), sounds.speech(1.5 + number / 100)),)
            settings = {"speed": 0.8 + number % 13 / 20, "temperature": 0.5 + number % 7 / 10}
            chunks = [
                Chunk(f"Job number {number} says: {'so ' * (number % 17 + part)}", "en", number + part,
                      speaker=None if recordings else tiny.SPEAKERS[number % 2], recordings=recordings,
                      settings=settings)
                for part in range(1 + number % 3)
            ]  # fmt: skip
            assert speak(engine, *chunks)
            after.append(now())
    return {"after": after}


TASKS: Mapping[str, Callable[..., Taken]] = {
    "loading": loading,
    "switching": switching,
    "batch": batch,
    "jobs": jobs,
}


def main(arguments: Sequence[str]) -> None:
    task, *rest = arguments
    print(json.dumps(TASKS[task](*rest)))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main(sys.argv[1:])
