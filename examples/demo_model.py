"""Shared by `make demo-xtts` and `make demo-f5`: renders a job with a fine-tuned model and a reference recording.

The models are tiny and have random weights, and eSpeak NG makes the recording. The engine, the model files and the job
are real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import soundfile

import demo
from engines.base import Chunk, Device
from engines.espeak.engine import Espeak

WORDS = "Esta é a minha voz, como ela soa quando eu leio um texto em voz alta, com calma e sem pressa, até o fim."
Build = Callable[[Path], object]


def show(folder: Path, job: str, voice: str, models: Mapping[str, tuple[str, Build]]) -> int:
    """Make a working folder with models and a recording, render a job that names them, and print the result.

    Args:
        job: A job file of examples/.
        voice: Name of the recording, without its extension.
        models: Name under models/ -> what it is, and its builder; the first one is the job's checkpoint.

    Returns:
        The spool's exit code.
    """
    demo.start(folder)
    for name, (what, build) in models.items():
        place = folder / "models" / name
        if not place.exists():
            print(f"Building a tiny {what} of random weights in {place}.", flush=True)
            appear(place, build)
    recording = folder / "voices" / f"{voice}.wav"
    record(recording)
    demo.drop(folder, [job])
    model = folder / "models" / next(iter(models))
    print(f"Dropped {job} into {folder / 'inbox'}; it names {model} and {recording}.\n", flush=True)
    code, made = demo.render(folder)
    for result in made:
        print(f"\n{result}\n{told(demo.manifest_of(result))}")
    print("\nThe audio is noise, because the weights are random; a real checkpoint gives speech.")
    return code


def appear(model: Path, build: Build) -> None:
    """Build a model folder under a hidden name, then rename it."""
    unfinished = model.with_name(f".{model.name}")
    build(unfinished)
    unfinished.rename(model)


def record(path: Path) -> None:
    """Write a recording of a few seconds, and its transcript next to it."""
    espeak = Espeak()
    espeak.load(None, Device())
    ((_, voice),) = espeak.render([Chunk(WORDS, "pt-BR", seed=0)])
    espeak.close()
    soundfile.write(path, voice.samples, voice.rate_hz)
    path.with_suffix(".txt").write_text(WORDS, "utf-8")


def told(manifest: dict[str, Any]) -> str:
    """How a result was made, one line for each fact."""
    if not demo.is_done(manifest):
        return f"  {manifest['status']}: {manifest['error']['message']}"
    engine, checkpoint = manifest["engine"], manifest["engine"]["checkpoint"]
    timing = manifest["timing"]
    lines = {
        "length": f"{demo.length_s(manifest):.1f} s{demo.doubt(manifest)}",
        "engine": f"{engine['name']} ({engine['library']} {engine['version']})",
        "checkpoint": f"{checkpoint['name']} ({checkpoint['architecture']}, sha256 {checkpoint['sha256'][:12]}…)",
        "device": f"{engine['device']}, {engine['precision']}",
        "real-time factor": f"{timing['real_time_factor']:.2f}, after {timing['load_s']:.1f} s of loading",
    }
    return "\n".join(f"  {name:16}  {value}" for name, value in lines.items())
