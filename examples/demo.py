"""`make demo`: a working folder, three jobs, one run of the spool, and where each result is and how long it is.

Usage: python examples/demo.py FOLDER
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

VOICESPOOL = Path(sys.executable).with_name("voicespool")
JOBS = ("hello.yaml", "ola.yaml", "broken.yaml")


def main(folder: Path) -> int:
    config = folder / "config.yaml"
    subprocess.run([VOICESPOOL, "init", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    before = set(results(folder))
    for job in JOBS:
        shutil.copy(Path(__file__).with_name(job), folder / "inbox")

    print(f"Dropped {', '.join(JOBS)} into {folder / 'inbox'}; the last one is broken on purpose.\n", flush=True)
    code = subprocess.run([VOICESPOOL, "--config", config, "run", "--once"], check=False).returncode
    if code not in (0, 1):  # 1 says that a job failed, and one should
        return code

    made = sorted(set(results(folder)) - before)
    width = max(len(str(result)) for result in made)
    print()
    for result in made:
        manifest = json.loads((result / "manifest.json").read_text("utf-8"))
        seconds = sum(audio["duration_s"] for audio in manifest["audio"])
        said = f"{seconds:.1f} s of audio" if manifest["status"] == "done" else "see ERROR.txt in it"
        print(f"{result!s:{width}}  {manifest['status']:6}  {said}")
    return 0


def results(folder: Path) -> list[Path]:
    """Every result folder: those that hold a manifest."""
    return [manifest.parent for manifest in (folder / "outbox").rglob("manifest.json")]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
