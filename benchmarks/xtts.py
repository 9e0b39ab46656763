"""XTTS-v2, ours beside the library's own calls, in one run: `make bench-xtts`.

The weights are random and of full size, which costs exactly what the real ones do; sentences of such a model last some
three seconds. Library and ours take turns, so that whatever else the machine does slows both. Results go to
`benchmarks/results/`, a file for each device.

    render    a text of 32 sentences: seconds for all of it, and how far apart the sounds are
    load      from nothing to a model that can speak, and on to the end of a first sentence, in fresh processes
    jobs      twenty short jobs, alternating between two checkpoints: the spool against a `tts` command for each
    profile   where the time goes (on a GPU)
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from beside import LIBRARY, ROOT, in_processes, in_turn, precisions, prepare, profiled, report, times
from machine import of_rounds

PARTS = ("render", "load", "jobs", "profile")
SPEAKER = "Ana Florence"
SENTENCES = (
    "The harbour was quiet when the first boats came in.",
    "Nobody had slept much, and the coffee was cold.",
    "She counted the crates twice, wrote the number down, and counted them again.",
    "Rain.",
    "By noon the market was full of people who wanted to know what had happened during the night.",
    "It was not the kind of story that one tells to strangers.",
    "The old man said that he had seen lights on the water, far out, where no ship should have been.",
    "They went home before dark.",
)
JOBS = 20


def sentences(count: int) -> list[str]:
    return [SENTENCES[number % len(SENTENCES)] for number in range(count)]


# --- the two sides ----------------------------------------------------------------------------------------------------


def library(folder: Path, device: str) -> Any:
    """The library's own model, by its own loader."""
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    config.load_json(str(folder / "config.json"))
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=str(folder), eval=True)
    return model.to(device)


def ours(folder: Path, device: str, precision: str) -> Any:
    """Our engine, as the worker loads it."""
    from engines.base import Device
    from engines.xtts.engine import Xtts

    engine = Xtts()
    engine.load(folder / "model.pth", Device(device, precision))
    return engine


Sounds = list[Any]


def said_by_library(model: Any, folder: Path, texts: Sequence[str]) -> Sounds:
    import torch

    voice = torch.load(folder / "speakers_xtts.pth", weights_only=True)[SPEAKER]
    heard = voice["gpt_cond_latent"], voice["speaker_embedding"]
    return [model.inference(text, "en", *heard, do_sample=False, repetition_penalty=5.0)["wav"] for text in texts]


def said_by_us(engine: Any, texts: Sequence[str]) -> Sounds:
    from engines.base import Chunk

    chunks = [Chunk(text, "en", number, SPEAKER, settings={"do_sample": False}) for number, text in enumerate(texts)]
    made = dict(one for one in engine.render(chunks) if one is not None)
    return [made[number].samples for number in range(len(texts))]


# --- parts ------------------------------------------------------------------------------------------------------------


def render(folder: Path, device: str, rounds: int, count: int) -> dict[str, Any]:
    """Each side speaks the whole text, in turn. Greedily: then both have the very same work to do."""
    model, texts = library(folder, device), sentences(count)
    engines = {precision: ours(folder, device, precision) for precision in precisions(device)}
    speakers: dict[str, Callable[[Sequence[str]], Sounds]] = {
        LIBRARY: partial(said_by_library, model, folder),
        **{precision: partial(said_by_us, engine) for precision, engine in engines.items()},
    }
    for speak in speakers.values():
        speak(texts[:2] if device == "cpu" else texts)  # what is made at the first use, is made
    seconds, sounds = in_turn({name: partial(speak, texts) for name, speak in speakers.items()}, rounds, device)
    audio_s = {name: sum(map(len, made)) / 24_000 for name, made in sounds.items()}
    factors = {name: [one / audio_s[name] for one in taken] for name, taken in seconds.items()}
    told: dict[str, Any] = {"sentences": count, "audio_s": round(audio_s[LIBRARY], 1)}
    for name, taken in seconds.items():
        told[name] = {"seconds": of_rounds(taken), "real_time_factor": of_rounds(factors[name])}
        if name != LIBRARY:
            told[name]["times_the_library"] = times(factors[LIBRARY], factors[name])
            told[name]["same"] = compared(sounds[LIBRARY], sounds[name])
    return told


def compared(theirs: Sounds, ours: Sounds) -> dict[str, Any]:
    """Sentences of the very same length, and the largest difference among them; full scale is 1."""
    import numpy as np

    equal = [(one, other) for one, other in zip(theirs, ours, strict=True) if len(one) == len(other)]
    largest = max((float(np.abs(one - other).max()) for one, other in equal), default=float("nan"))
    return {"sentences_of_equal_length": len(equal), "of": len(theirs), "largest_difference": float(f"{largest:.2g}")}


def load(folder: Path, device: str, rounds: int) -> dict[str, Any]:
    """Fresh processes, taking turns; what is imported is imported before the clock starts."""
    runs = in_processes(__file__, folder, device, rounds)
    told: dict[str, Any] = {}
    for place, what in enumerate(("loaded", "first_sentence")):
        seconds = {name: [pair[place] for pair in taken] for name, taken in runs.items()}
        for name, own in seconds.items():
            part = told.setdefault(name, {}).setdefault(what, {"seconds": of_rounds(own)})
            if name != LIBRARY:
                part["times_the_library"] = times(seconds[LIBRARY], own)
    return told


def load_once(folder: Path, device: str, name: str) -> tuple[float, float]:
    """Seconds until a model is loaded in this process, and until it has said a sentence."""
    import TTS.tts.models.xtts  # noqa: F401 - the import is not what is measured

    import engines.xtts.net.speech  # noqa: F401 - the same

    started_s = time.perf_counter()
    loaded = library(folder, device) if name == LIBRARY else ours(folder, device, name)
    loaded_s = time.perf_counter() - started_s
    said_by_library(loaded, folder, SENTENCES[:1]) if name == LIBRARY else said_by_us(loaded, SENTENCES[:1])
    return loaded_s, time.perf_counter() - started_s


def jobs(folder: Path, device: str) -> dict[str, Any]:
    """Twenty short jobs that alternate between two checkpoints: the spool, and a `tts` command for each.

    One round: twenty commands are spread enough.
    """
    texts = sentences(JOBS)
    with two_models(folder) as models:
        spool_s = by_the_spool(models, texts, device)
        print(f"spool: {spool_s:.1f} s", flush=True)
        tts_s = list(by_tts(models, texts, device))
        print(f"tts: {sum(tts_s):.1f} s", flush=True)
    return {
        "jobs": JOBS,
        "spool_s": round(spool_s, 1),
        "tts_s": round(sum(tts_s), 1),
        "tts_s_each": of_rounds(tts_s),
        "times_the_library": float(f"{sum(tts_s) / spool_s:.3g}"),
    }


@contextmanager
def two_models(folder: Path) -> Iterator[list[Path]]:
    """A models folder with two checkpoints of the same weights: what they cost does not depend on them."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bench-") as scratch:
        models = [Path(scratch) / "models" / name for name in ("ana", "rui")]
        for model in models:
            shutil.copytree(folder, model)
        yield models


def by_the_spool(models: Sequence[Path], texts: Sequence[str], device: str) -> float:
    """From the first file dropped to the daemon's end; a daemon, a worker and an engine have to be started too."""
    from tests.spooling import spooling

    config = {"ready": {}, "defaults": {}, "models": str(models[0].parent), "device": {"name": device}}
    with spooling(models[0].parents[1] / "spool", **config) as spool:
        started_s = time.perf_counter()
        for number, text in enumerate(texts):
            job = {"text": text, "language": "en", "checkpoint": models[number % 2].name, "speaker": SPEAKER}
            spool.drop(f"{number}.json", json.dumps(job))
        done = spool.once()
        seconds = time.perf_counter() - started_s
        assert done.returncode == 0, done.stderr
        assert len(list(spool.outbox.glob("*/*.wav"))) == len(texts)
    shutil.rmtree(models[0].parents[1] / "spool")
    return seconds


TTS = "from engines.device import runtime; runtime.prepare_torchaudio(); from TTS.bin.synthesize import main; main()"
"""The `tts` command, beside a torch for which torchaudio's compiled part was not built."""


def by_tts(models: Sequence[Path], texts: Sequence[str], device: str) -> Iterator[float]:
    """Seconds of each command."""
    for number, text in enumerate(texts):
        model, sound = models[number % 2], models[0].parent / "said.wav"
        command = [
            sys.executable, "-W", "ignore", "-c", TTS, "--model_path", str(model), "--config_path",
            str(model / "config.json"), "--speaker_idx", SPEAKER, "--language_idx", "en", "--text", text,
            "--out_path", str(sound), *(["--use_cuda"] if device != "cpu" else []),
        ]  # fmt: skip
        started_s = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        yield time.perf_counter() - started_s
        sound.unlink()


def profile(folder: Path, device: str, count: int) -> dict[str, Any]:
    """Where the time of a rendering goes."""
    return profiled(partial(said_by_us, ours(folder, device, precisions(device)[-1]), sentences(count)), device)


# --- all of it --------------------------------------------------------------------------------------------------------


@contextmanager
def full_size(given: Path | None) -> Iterator[Path]:
    """A folder with a full-size model: the one given, or one that lasts as long as this."""
    if given is not None:
        yield given.resolve()
        return
    import tiny_xtts

    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as scratch:
        folder = Path(scratch).resolve() / "full"
        print("building a full-size model ...", flush=True)
        tiny_xtts.build(folder, tiny_xtts.FULL)
        yield folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--model", type=Path, help="a folder with model.pth and its companions, instead of a new one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=32)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--load-once", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    prepare()
    if arguments.load_once:
        print(json.dumps(load_once(arguments.model, arguments.device, arguments.load_once)))
        return
    device, rounds, count = arguments.device, arguments.rounds, arguments.sentences
    with full_size(arguments.model) as folder:
        parts = {
            "render": lambda: render(folder, device, rounds, count),
            "load": lambda: load(folder, device, rounds),
            "jobs": lambda: jobs(folder, device),
            "profile": lambda: profile(folder, device, count),
        }
        report("xtts", device, parts, arguments.parts)


if __name__ == "__main__":
    main()
