"""The real `voicespool`, whose table of releases has small ones in place of those of gigabytes.

Put before a command (`tests.spooling.Spool.prefix`) with a folder that holds each release's files under its name.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engines.checkpoints import base_models
from tests.hub import published
from watcher.cli import main as cli_main


def words(folder: Path) -> tuple[str, ...]:
    """Words before `python -m watcher ...`."""
    return sys.executable, "-m", "tests.small_release", str(folder)


def main() -> None:
    folder, python_m_watcher = Path(sys.argv[1]), slice(2, 5)
    for release in folder.iterdir():
        files = {str(path.relative_to(release)): path.read_bytes() for path in release.rglob("*") if path.is_file()}
        weights_last = dict(sorted(files.items(), key=lambda item: len(item[1])))
        base_models.BASE_MODELS[release.name] = published(weights_last, base_models.BASE_MODELS[release.name])
    del sys.argv[python_m_watcher], sys.argv[1]
    cli_main.main()


if __name__ == "__main__":
    main()
