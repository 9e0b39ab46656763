"""`make demo-xtts`: a fine-tuned XTTS-v2 speaks a job with the voice of a recording, without the weights.

The model is a tiny one of random values and the recording is made by espeak; the engine, the checkpoint's files and
the job (`finetuned.yaml`) are what they would be with real ones.

Usage: python examples/demo_xtts.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import demo
import soundfile
import tiny_xtts

from engines.base import Chunk, Device
from engines.espeak import Espeak

JOB = "finetuned.yaml"
WORDS = "Esta é a minha voz, como ela soa quando eu leio um texto em voz alta, com calma e sem pressa, até o fim."


def main(folder: Path) -> int:
    demo.start(folder)
    model, recording = folder / "models/anna", folder / "voices/ana.wav"
    if not model.exists():
        print(f"Building a tiny XTTS-v2 of random values in {model}.", flush=True)
        build(model)
    record(recording)
    demo.drop(folder, [JOB])
    print(f"Dropped {JOB} into {folder / 'inbox'}; it names {model} and {recording}.\n", flush=True)
    code, made = demo.render(folder)
    for result in made:
        print(f"\n{result}\n{told(demo.manifest_of(result))}")
    print("\nWhat you hear is noise, as random weights speak it; with a real checkpoint it is speech.")
    return code


def build(model: Path) -> None:
    """A fine-tuned model's folder, which appears whole."""
    unfinished = model.with_name(f".{model.name}")
    tiny_xtts.build(unfinished)
    unfinished.rename(model)


def record(path: Path) -> None:
    """A recording of a voice, some seconds long."""
    espeak = Espeak()
    espeak.load(None, Device())
    ((_, voice),) = espeak.render([Chunk(WORDS, "pt-BR", seed=0)])
    espeak.close()
    soundfile.write(path, voice.samples, voice.rate_hz)


def told(manifest: dict[str, Any]) -> str:
    """What a result says of how it was made, a line each."""
    if manifest["status"] != "done":
        return f"  {manifest['status']}: {manifest['error']['message']}"
    engine, checkpoint = manifest["engine"], manifest["engine"]["checkpoint"]
    timing = manifest["timing"]
    lines = {
        "length": f"{demo.length_s(manifest):.1f} s",
        "engine": f"{engine['name']} ({engine['library']} {engine['version']})",
        "checkpoint": f"{checkpoint['name']} ({checkpoint['architecture']}, sha256 {checkpoint['sha256'][:12]}…)",
        "device": f"{engine['device']}, {engine['precision']}",
        "real-time factor": f"{timing['real_time_factor']:.2f}, after {timing['load_s']:.1f} s of loading",
    }
    return "\n".join(f"  {name:16}  {value}" for name, value in lines.items())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
