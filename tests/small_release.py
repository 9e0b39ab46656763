"""The real `voicespool`, for which a small release stands in the table in place of the one of 1.9 GB.

Put before a command (`tests.spooling.Spool.prefix`) with the folder that holds the release's files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engines import base_models
from tests.hub import published
from watcher import cli


def words(folder: Path) -> tuple[str, ...]:
    """What to put before `python -m watcher ...`."""
    return sys.executable, "-m", "tests.small_release", str(folder)


def main() -> None:
    folder, python_m_watcher = Path(sys.argv[1]), slice(2, 5)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights_last = dict(sorted(files.items(), key=lambda item: len(item[1])))
    base_models.BASE_MODELS["xtts"] = published(weights_last)
    del sys.argv[python_m_watcher], sys.argv[1]
    cli.main()


if __name__ == "__main__":
    main()
