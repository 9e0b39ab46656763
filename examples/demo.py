"""`make demo`: a working folder, three jobs, one run of the spool; what came of each, and what to do next.

Usage: python examples/demo.py FOLDER
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from files.printable import wrapped

VOICESPOOL = str(Path(sys.executable).with_name("voicespool"))
JOBS = ("hello.yaml", "ola.yaml", "broken.yaml")
PLAYERS = ("ffplay", "mpv", "aplay", "paplay", "pw-play")


def main(folder: Path) -> int:
    start(folder)
    drop(folder, JOBS)
    print(f"Dropped {', '.join(JOBS)} into {folder / 'inbox'}.", flush=True)
    print("broken.yaml is invalid on purpose.", flush=True)
    code, made = render(folder)
    if code not in (0, 1):  # 1 says that a job failed, and one should
        return not_run(folder, code)
    print("\nResults:")
    width = max(len(str(result)) for result in made)
    for result in made:
        manifest = manifest_of(result)
        told = f"done    {length_s(manifest):.1f} s of audio{doubt(manifest)}" if is_done(manifest) else "failed"
        print(f"  {result!s:{width}}  {told}")
    for result in made:
        if not is_done(manifest_of(result)):
            print_error(result)
    listen(made)
    config = shlex.quote(str(folder / "config.yaml"))
    print("\nNext:")
    print(f"  {shown_command(VOICESPOOL)} --config {config} run &")
    print(f'  {shown_command(VOICESPOOL)} --config {config} submit --text "Your own text." --wait')
    print(f"  or copy your own job file into {folder / 'inbox'}.")
    return 0


def start(folder: Path) -> None:
    """Create a working folder; existing files stay."""
    subprocess.run([VOICESPOOL, "init", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def drop(folder: Path, jobs: Sequence[str]) -> None:
    """Copy job files of examples/ into the inbox."""
    for job in jobs:
        shutil.copy(Path(__file__).with_name(job), folder / "inbox")


def render(folder: Path) -> tuple[int, list[Path]]:
    """Run the spool once. Its log goes to demo.log in the folder.

    Returns:
        Its exit code, and the new result folders, sorted by name.
    """
    before = results(folder)
    environment = os.environ | {"VOICESPOOL_CACHE": str((folder / ".cache").absolute())}  # deleted with the folder
    command = [VOICESPOOL, f"--config={folder / 'config.yaml'}", "run", "--once"]
    with log_of(folder).open("w") as log:
        code = subprocess.run(command, env=environment, stderr=log, check=False).returncode
    return code, sorted(results(folder) - before)


def log_of(folder: Path) -> Path:
    return folder / "demo.log"


def not_run(folder: Path, code: int) -> int:
    """Say that the spool did not work, with the last lines of its log."""
    last = log_of(folder).read_text("utf-8").splitlines()[-5:]
    print("\n".join(["", f"voicespool ended with exit code {code}. The end of {log_of(folder)}:", *last]))
    return code


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


def print_error(result: Path) -> None:
    """The words of ERROR.txt of a failed result."""
    path = result / "ERROR.txt"
    print(f"\n{path}:")
    for line in path.read_text("utf-8").strip().splitlines():
        indent = " " * (2 + len(line) - len(line.lstrip()))
        for part in wrapped(line.strip(), shutil.get_terminal_size().columns - len(indent)) or [""]:
            print(f"{indent}{part}".rstrip())


def listen(made: Sequence[Path]) -> None:
    """How to listen to the first result with audio."""
    sound = next((audio for result in made for audio in sorted(result.glob("*.wav"))), None)
    if sound is None:
        return
    player = next(filter(shutil.which, PLAYERS), None)
    options = " -autoexit -nodisp" if player == "ffplay" else ""
    path = shlex.quote(str(sound))
    print(f"\nListen:\n  {player}{options} {path}" if player else f"\nListen:\n  open {path} in any audio player")


def shown_command(command: str) -> str:
    """A command as one would type it from the current folder."""
    return shlex.quote(os.path.relpath(command) if Path(command).is_relative_to(Path.cwd()) else command)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
