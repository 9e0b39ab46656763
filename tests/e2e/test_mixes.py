"""Jobs in random mixes sound as each alone, whatever their order, priorities, and interruptions."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from engines.base import Device, Engine, EngineClass
from engines.espeak.engine import Espeak
from engines.f5.engine import F5
from engines.xtts.engine import Xtts
from jobs.order import Order, Rendering, RenderStopped
from jobs.render.preparation import prepare
from jobs.render.rendering import LoadedEngine, Work
from jobs.render.stream import Added, Stream
from jobs.spec.job_spec import JobSpec
from tests import sounds

ENGINES: dict[str, EngineClass] = {"espeak": Espeak, "xtts": Xtts, "f5": F5}
LAST_BIT = 1 / (1 << 15)
"""Of a sample in the file. A network's sums depend on how many rows it computes at once, by less than that."""
VOICES = {"ana.wav": 2.0, "bea.wav": 3.0}
TEXTS = ("Who is there?", "It is me. Open the door.", "One more word. And another one. The last.", "Good night.")
WAYS: dict[str, tuple[dict[str, Any], ...]] = {
    "espeak": ({}, {"language": "pt-BR"}, {"speaker": "f3"}, {"settings": {"speed": 1.3}}),
    "xtts": (
        {"speaker": "Ana Florence"}, {"speaker": "Viktor Eka", "language": "pt"}, {"speaker_wav": "ana.wav"},
        {"speaker": "Ana Florence", "settings": {"temperature": 0.2, "speed": 1.4}},
    ),
    "f5": (
        {"speaker_wav": "ana.wav", "speaker_text": "Some words.", "settings": {"nfe_step": 3}},
        {"speaker_wav": "bea.wav", "speaker_text": "Others.", "settings": {"nfe_step": 2, "cfg_strength": 0.0}},
        {"speaker_wav": "ana.wav", "speaker_text": "Some words.", "settings": {"nfe_step": 4, "speed": 1.3}},
    ),
}  # fmt: skip


@dataclass
class Mixer:
    """Renders jobs with one loaded engine, alone and in mixes.

    Attributes:
        jobs: Number of a job -> its order, without folders.
        alone: Number of a job -> its samples [n].
    """

    folder: Path
    engine: Engine
    jobs: dict[int, dict[str, Any]]
    recordings: dict[str, Path]
    alone: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def work(self, folder: Path, number: int, priority: int = 5) -> Work:
        """A job as it is after a restart: with the chunks that it has in its folder."""
        name = self.jobs[number]["engine"]
        own = folder / str(number)
        own.mkdir(parents=True, exist_ok=True)
        spec = JobSpec.model_validate_json(json.dumps({**self.jobs[number], "priority": priority})).packed()
        order = Order(
            job_id=f"{number:03}", stem="a", spec=spec, engine=name, checkpoint=None, transcripts={},
            recordings={file: str(self.recordings[file]) for file in JobSpec.model_validate(spec).recordings()},
            chunks_dir=str(own / "chunks"), result_dir=str(own),
        )  # fmt: skip
        work = Work(prepare(order, cast(EngineClass, self.engine)))
        work.load_finished()
        return work

    def mix(self, folder: Path, numbers: list[int], chance: random.Random) -> dict[int, NDArray[np.float64]]:
        """Render jobs that arrive at any time, with any priority, and are put back at any time and come again."""
        waiting, made, stops = list(numbers), dict[int, NDArray[np.float64]](), chance.randint(0, 3)
        stream = Stream(LoadedEngine(self.engine, {}), lambda _work: None, lambda _work, _result: None)

        def ended(work: Work, result: Rendering | BaseException) -> None:
            if isinstance(result, RenderStopped):
                waiting.append(int(work.job_id))
                return
            assert isinstance(result, Rendering), (result, result.__cause__)
            samples, _rate_hz = soundfile.read(folder / str(int(work.job_id)) / result.files[0])
            made[int(work.job_id)] = np.asarray(samples)

        def add() -> None:
            work = self.work(folder, waiting.pop(chance.randrange(len(waiting))), chance.randrange(10))
            stream.add(work)
            stream.hear(Added(work))

        def look() -> None:
            nonlocal stops
            if waiting and chance.random() < 0.5:
                add()
            if stops and chance.random() < 0.1:
                stops -= 1
                stream.stop(f"{chance.choice(numbers):03}", at_once=chance.random() < 0.3)

        while waiting:
            stream = Stream(LoadedEngine(self.engine, {}), lambda _work: None, ended, look=look)
            add()
            stream.run()
        return made

    def check(self, folder: Path, seed: int) -> None:
        """A random mix sounds as each of its jobs alone."""
        chance = random.Random(seed)
        numbers = chance.sample(sorted(self.jobs), chance.randint(2, min(8, len(self.jobs))))
        for number, samples in self.mix(folder, numbers, chance).items():
            if number not in self.alone:
                self.alone |= self.mix(folder / "alone", [number], random.Random(0))
            expected = self.alone[number]
            assert samples.shape == expected.shape, (seed, number)
            if isinstance(self.engine, Espeak):
                assert digest(samples) == digest(expected), (seed, number)
            assert np.abs(samples - expected).max() <= LAST_BIT, (seed, number)


def digest(samples: NDArray[np.float64]) -> str:
    return hashlib.sha256(samples.tobytes()).hexdigest()


@pytest.fixture(scope="module", params=sorted(ENGINES))
def mixer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_xtts: Path, tiny_f5: Path
) -> Iterator[Mixer]:
    folder, name = tmp_path_factory.mktemp("mixer"), request.param
    recordings = {file: sounds.save(folder / file, sounds.speech(seconds)) for file, seconds in VOICES.items()}
    jobs = {
        number: {"text": text, "engine": name, "language": "en", "seed": number, **way}
        for number, (text, way) in enumerate((text, way) for text in TEXTS for way in WAYS[name])
    }
    engine: Engine = ENGINES[name]()
    engine.load({"xtts": tiny_xtts, "f5": tiny_f5}.get(name), Device("cpu", "float32", models=tiny_f5.parents[1]))
    yield Mixer(folder, engine, jobs, recordings)
    engine.close()


def test_a_few_mixes(mixer: Mixer, tmp_path: Path) -> None:
    for seed in range(3):
        mixer.check(tmp_path / str(seed), seed)


@pytest.mark.long
def test_two_hundred_mixes(mixer: Mixer, tmp_path: Path) -> None:
    for seed in range(200):
        mixer.check(tmp_path / str(seed), seed)
