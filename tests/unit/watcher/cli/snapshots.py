"""Compares what people see on a terminal with text files next to the tests.

    VOICESPOOL_WRITE_SNAPSHOTS=1 python -m pytest tests/unit/watcher/cli

writes the files again; `git diff` then shows what has changed.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

FOLDER = Path(__file__).with_name("shown")
WRITE = "VOICESPOOL_WRITE_SNAPSHOTS"
WIDTHS = (80, 120)
_CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """Takes what is shown, as a terminal does; its width is in COLUMNS."""

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        """Without colours and without spaces at the end of lines."""
        plain = _CODES.sub("", self.getvalue())
        return "".join(line.rstrip() + "\n" for line in plain.splitlines())


def compare(name: str, text: str, replaced: dict[str, str] | None = None) -> None:
    """Compare text with the file of a name, after replacing what differs from run to run.

    Args:
        name: Of the file in `shown/`, without its ending.
        replaced: Patterns (regular expressions) -> what stands for them in the file.

    Raises:
        AssertionError: They differ.
    """
    for pattern, stand_in in (replaced or {}).items():
        text = re.sub(pattern, stand_in, text)
    path = FOLDER / f"{name}.txt"
    if os.environ.get(WRITE):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.is_file(), f"{path} is missing: run the tests with {WRITE}=1"
    assert text == path.read_text("utf-8"), f"run the tests with {WRITE}=1 if {path.name} changed on purpose"
