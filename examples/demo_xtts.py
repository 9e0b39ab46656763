"""`make demo-xtts`: a tiny XTTS-v2 with random weights renders a job with the voice of a recording.

Usage: python examples/demo_xtts.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import demo_model
import tiny_xtts

if __name__ == "__main__":
    sys.exit(demo_model.show(Path(sys.argv[1]), "finetuned.yaml", "ana", {"anna": ("XTTS-v2", tiny_xtts.build)}))
