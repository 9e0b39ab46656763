"""`make demo-f5`: a tiny F5-TTS with random weights renders a job with the voice of a recording.

Usage: python examples/demo_f5.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import demo_model
import tiny_f5


def build(folder: Path) -> None:
    """A fine-tuned v1 as training saves it, with a sidecar that says so."""
    tiny_f5.build(folder, tiny_f5.KINDS["f5-v1-base"].tiny, "training")
    (folder / "model_last.yaml").write_text("variant: v1\n", encoding="utf-8")


if __name__ == "__main__":
    models: dict[str, tuple[str, demo_model.Build]] = {
        "rui": ("F5-TTS", build),
        "vocos-mel-24khz": ("Vocos", tiny_f5.build_vocos),
    }
    sys.exit(demo_model.show(Path(sys.argv[1]), "transcript.yaml", "rui", models))
