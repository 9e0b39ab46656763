"""Shared by `make demo-xtts` and `make demo-f5`: a fine-tuned model renders a job with the voice of a recording.

The models are tiny, with random weights, and espeak makes the recording; the engine, the model files and the job are
the same as with real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import soundfile

import demo
from engines.base import Audio, Chunk, ChunkList, Device
from engines.espeak.engine import Espeak

WORDS = "Esta é a minha voz, como ela soa quando eu leio um texto em voz alta, com calma e sem pressa, até o fim."
Build = Callable[[Path], object]


def show(folder: Path, job: str, voice: str, models: Mapping[str, tuple[str, Build]]) -> int:
    """Create a working folder with models and a recording, drop a job that names them, and show its result.

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
            print(f"Building a tiny {what} with random weights in {place}.", flush=True)
            appear(place, build)
    recording = folder / "voices" / f"{voice}.wav"
    record(recording)
    demo.drop(folder, [job])
    model = folder / "models" / next(iter(models))
    print(f"Dropped {job} into {folder / 'inbox'}; it names {model} and {recording}.", flush=True)
    code, made = demo.render(folder)
    if code not in (0, 1):
        return demo.not_run(folder, code)
    for result in made:
        manifest = demo.manifest_of(result)
        print(f"\n{result}")
        print(told(manifest)) if demo.is_done(manifest) else demo.print_error(result)
    demo.listen(made)
    print("The audio is noise, because the weights are random; a real checkpoint gives speech.")
    print(f"\nNext:\n  put your own model into {folder / 'models'}, and name it in {job}; see docs/CHECKPOINTS.md.")
    return code


def appear(model: Path, build: Build) -> None:
    """Build a model folder under a hidden name, then rename it."""
    unfinished = model.with_name(f".{model.name}")
    build(unfinished)
    unfinished.rename(model)


def record(path: Path) -> None:
    """A recording of a voice, some seconds long, and its transcript next to it."""
    espeak = Espeak()
    espeak.load(None, Device())
    ((_, voice),) = espeak.render(ChunkList([Chunk(WORDS, "pt-BR", seed=0)]))
    espeak.close()
    if not isinstance(voice, Audio):
        raise voice
    soundfile.write(path, voice.samples, voice.rate_hz)
    path.with_suffix(".txt").write_text(WORDS, "utf-8")


def told(manifest: dict[str, Any]) -> str:
    """What the manifest says about a done result, a line each."""
    engine, checkpoint = manifest["engine"], manifest["engine"]["checkpoint"]
    timing = manifest["timing"]
    lines = {
        "length": f"{demo.length_s(manifest):.1f} s{demo.doubt(manifest)}",
        "engine": f"{engine['name']} ({engine['library']} {engine['version']})",
        "checkpoint": f"{checkpoint['name']} ({checkpoint['architecture']}, sha256 {checkpoint['sha256'][:12]}…)",
        "device": f"{engine['device']}, {engine['precision']}",
        "real-time factor": f"{timing['real_time_factor']:.2f}, plus {timing['load_s']:.1f} s to load the model",
    }
    return "\n".join(f"  {name:16}  {value}" for name, value in lines.items())
