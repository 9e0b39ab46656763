"""The code blocks of docs/OPERATIONS.md that tests execute. Their names follow the language: `sh recipe-group`."""

from __future__ import annotations

import re

from tests.spooling import ROOT

OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text("utf-8")


def recipe(name: str) -> list[str]:
    """The lines of a block."""
    (block,) = re.findall(rf"^```\w+ recipe-{name}\n(.*?)^```$", OPERATIONS, re.DOTALL | re.MULTILINE)
    return str(block).splitlines()
