"""`make demo`: makes a working folder, runs three jobs, and prints where each result is and how long it is.

Usage: python examples/demo.py FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VOICESPOOL = str(Path(sys.executable).with_name("voicespool"))
JOBS = ("hello.yaml", "ola.yaml", "broken.yaml")


def main(folder: Path) -> int:
    start(folder)
    drop(folder, JOBS)
    print(f"Dropped {', '.join(JOBS)} into {folder / 'inbox'}; the last one is broken on purpose.\n", flush=True)
    code, made = render(folder)
    if code not in (0, 1):  # 1: a job failed, as broken.yaml should
        return code
    width = max(len(str(result)) for result in made)
    print()
    for result in made:
        manifest = manifest_of(result)
        said = f"{length_s(manifest):.1f} s of audio{doubt(manifest)}" if is_done(manifest) else "see ERROR.txt in it"
        print(f"{result!s:{width}}  {manifest['status']:6}  {said}")
    return 0


def start(folder: Path) -> None:
    """Make a working folder; existing files are kept."""
    subprocess.run([VOICESPOOL, "init", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def drop(folder: Path, jobs: Sequence[str]) -> None:
    """Copy job files of examples/ into the inbox."""
    for job in jobs:
        shutil.copy(Path(__file__).with_name(job), folder / "inbox")


def render(folder: Path) -> tuple[int, list[Path]]:
    """Run the spool once.

    Returns:
        Its exit code, and the new result folders, sorted by name.
    """
    before = results(folder)
    environment = os.environ | {"VOICESPOOL_CACHE": str((folder / ".cache").absolute())}  # deleted with the folder
    command = [VOICESPOOL, f"--config={folder / 'config.yaml'}", "run", "--once"]
    code = subprocess.run(command, env=environment, check=False).returncode
    return code, sorted(results(folder) - before)


def results(folder: Path) -> set[Path]:
    """All result folders: those with a manifest."""
    return {manifest.parent for manifest in (folder / "outbox").rglob("manifest.json")}


def manifest_of(result: Path) -> dict[str, Any]:
    """The manifest of a result."""
    manifest: dict[str, Any] = json.loads((result / "manifest.json").read_text("utf-8"))
    return manifest


def is_done(manifest: dict[str, Any]) -> bool:
    return bool(manifest["status"] == "done")


def doubt(manifest: dict[str, Any]) -> str:
    """The reasons for a doubtful verdict, to append to a line; "" if the verdict is ok."""
    checks = manifest["checks"]
    return f", doubtful: {'; '.join(checks['reasons'])}" if checks["verdict"] == "doubtful" else ""


def length_s(manifest: dict[str, Any]) -> float:
    """Total length of its audio, in seconds."""
    return float(sum(audio["duration_s"] for audio in manifest["audio"]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
