"""Compares our XTTS-v2 with coqui-tts: `make bench-xtts`.

The model has random weights and full size, so it takes as long as a real one; its sentences last about 3 s. Both sides
alternate in one run, so that other load on the machine slows both. Results go to `benchmarks/results/`, one file for
each device.

    render    a text of 32 sentences: seconds, and the difference of the audio
    load      loading in a new process: seconds until the model is loaded, and until the first sentence is rendered
    jobs      20 short jobs that alternate between two checkpoints: the spool, and a `tts` command for each job
    profile   the kernels or operations that take most time
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

from comparison import LIBRARY, ROOT, in_processes, in_turn, precisions, prepare, profiled, report, speed_ups
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


# --- both sides -------------------------------------------------------------------------------------------------------


def library(folder: Path, device: str) -> Any:
    """Load a model with coqui-tts."""
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    config.load_json(str(folder / "config.json"))
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=str(folder), eval=True)
    return model.to(device)


def ours(folder: Path, device: str, precision: str) -> Any:
    """Load a model with our engine, as the worker does."""
    from engines.base import Device
    from engines.xtts.engine import Xtts

    engine = Xtts()
    engine.load(folder / "model.pth", Device(device, precision))
    return engine


Samples = list[Any]
"""Of each sentence, float32 [n]."""


def render_with_library(model: Any, folder: Path, texts: Sequence[str]) -> Samples:
    import torch

    voice = torch.load(folder / "speakers_xtts.pth", weights_only=True)[SPEAKER]
    latents = voice["gpt_cond_latent"], voice["speaker_embedding"]
    return [model.inference(text, "en", *latents, do_sample=False, repetition_penalty=5.0)["wav"] for text in texts]


def render_with_ours(engine: Any, texts: Sequence[str]) -> Samples:
    from engines.base import Chunk
    from tests.rendered import rendered

    chunks = [Chunk(text, "en", number, SPEAKER, settings={"do_sample": False}) for number, text in enumerate(texts)]
    return [audio.samples for audio in rendered(engine, *chunks)]


# --- parts ------------------------------------------------------------------------------------------------------------


def render(folder: Path, device: str, rounds: int, count: int) -> dict[str, Any]:
    """Render a text with each side in turn. Greedy decoding gives both the same work."""
    model, texts = library(folder, device), sentences(count)
    engines = {precision: ours(folder, device, precision) for precision in precisions(device)}
    sides: dict[str, Callable[[Sequence[str]], Samples]] = {
        LIBRARY: partial(render_with_library, model, folder),
        **{precision: partial(render_with_ours, engine) for precision, engine in engines.items()},
    }
    for side in sides.values():
        side(texts[:2] if device == "cpu" else texts)  # warm-up
    seconds, samples = in_turn({name: partial(side, texts) for name, side in sides.items()}, rounds, device)
    audio_s = {name: sum(map(len, made)) / 24_000 for name, made in samples.items()}
    factors = {name: [value / audio_s[name] for value in values] for name, values in seconds.items()}
    results: dict[str, Any] = {"sentences": count, "audio_s": round(audio_s[LIBRARY], 1)}
    for name, values in seconds.items():
        results[name] = {"seconds": of_rounds(values), "real_time_factor": of_rounds(factors[name])}
        if name != LIBRARY:
            results[name]["times_the_library"] = speed_ups(factors[LIBRARY], factors[name])
            results[name]["same"] = compared(samples[LIBRARY], samples[name])
    return results


def compared(theirs: Samples, ours: Samples) -> dict[str, Any]:
    """Number of sentences with equal length, and the largest difference of their samples; full scale is 1."""
    import numpy as np

    pairs = [(their, our) for their, our in zip(theirs, ours, strict=True) if len(their) == len(our)]
    largest = max((float(np.abs(their - our).max()) for their, our in pairs), default=float("nan"))
    return {"sentences_of_equal_length": len(pairs), "of": len(theirs), "largest_difference": float(f"{largest:.2g}")}


def load(folder: Path, device: str, rounds: int) -> dict[str, Any]:
    """Load in new processes, alternately. Imports are not measured."""
    runs = in_processes(__file__, folder, device, rounds)
    results: dict[str, Any] = {}
    for index, what in enumerate(("loaded", "first_sentence")):
        seconds = {name: [pair[index] for pair in pairs] for name, pairs in runs.items()}
        for name, own in seconds.items():
            part = results.setdefault(name, {}).setdefault(what, {"seconds": of_rounds(own)})
            if name != LIBRARY:
                part["times_the_library"] = speed_ups(seconds[LIBRARY], own)
    return results


def load_once(folder: Path, device: str, name: str) -> tuple[float, float]:
    """Seconds until a model is loaded in this process, and until it has rendered a sentence."""
    import TTS.tts.models.xtts  # noqa: F401 - imports are not measured

    import engines.xtts.net.speech  # noqa: F401 - imports are not measured

    started_s = time.perf_counter()
    loaded = library(folder, device) if name == LIBRARY else ours(folder, device, name)
    loaded_s = time.perf_counter() - started_s
    render_with_library(loaded, folder, SENTENCES[:1]) if name == LIBRARY else render_with_ours(loaded, SENTENCES[:1])
    return loaded_s, time.perf_counter() - started_s


def jobs(folder: Path, device: str) -> dict[str, Any]:
    """Render 20 short jobs that alternate between two checkpoints with the spool, and with a `tts` command for each.

    A single round, as 20 commands show the spread.
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
    """Two checkpoints in a models folder, with the same weights, as the time does not depend on them."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bench-") as scratch:
        models = [Path(scratch) / "models" / name for name in ("ana", "rui")]
        for model in models:
            shutil.copytree(folder, model)
        yield models


def by_the_spool(models: Sequence[Path], texts: Sequence[str], device: str) -> float:
    """Seconds from dropping the first file until the daemon exits; includes the start of daemon, worker and engine."""
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
"""The `tts` command, for installations where torchaudio's compiled extension was built for another torch."""


def by_tts(models: Sequence[Path], texts: Sequence[str], device: str) -> Iterator[float]:
    """Seconds of each command."""
    for number, text in enumerate(texts):
        model, wav = models[number % 2], models[0].parent / "output.wav"
        command = [
            sys.executable, "-W", "ignore", "-c", TTS, "--model_path", str(model), "--config_path",
            str(model / "config.json"), "--speaker_idx", SPEAKER, "--language_idx", "en", "--text", text,
            "--out_path", str(wav), *(["--use_cuda"] if device != "cpu" else []),
        ]  # fmt: skip
        started_s = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        yield time.perf_counter() - started_s
        wav.unlink()


def profile(folder: Path, device: str, count: int) -> dict[str, Any]:
    """Profile rendering in the fastest precision."""
    return profiled(partial(render_with_ours, ours(folder, device, precisions(device)[-1]), sentences(count)), device)


# --- command ----------------------------------------------------------------------------------------------------------


@contextmanager
def full_size(given: Path | None) -> Iterator[Path]:
    """A folder with a full-size model: the given one, or a temporary one."""
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
    parser.add_argument("--model", type=Path, help="folder with model.pth and its companion files (default: a new one)")
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
