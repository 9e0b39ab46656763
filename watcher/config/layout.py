"""Which folders of a configuration may be inside which others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from files.printable import printable
from files.tree import Problem, Tree


def overlaps(folders: Mapping[str, Path], tree: Tree) -> list[Problem]:
    """A problem for each pair of folders that must not be inside each other. Symbolic links are resolved.

    Args:
        folders: inbox, outbox, voices, models and state_dir, absolute.
        tree: The configuration file, for line numbers.
    """
    real = {name: Path(os.path.realpath(folder)) for name, folder in folders.items()}
    problems: dict[frozenset[str], Problem] = {}
    for inner, outer in _APART:
        if real[inner].is_relative_to(real[outer]) and (inner != "state_dir" or inner in tree.value):
            line = tree.line_of((inner,) if inner in tree.value else (outer,))
            problems.setdefault(frozenset((inner, outer)), Problem(_message(inner, outer, real), inner, line))
    if _is_scanned(real["state_dir"], real["inbox"]):
        message = "is visible in the inbox; choose a folder whose name starts with a dot, or one next to the inbox"
        problems[frozenset(["state_dir"])] = Problem(message, "state_dir", tree.line_of(("state_dir",)))
    return list(problems.values())


def _is_scanned(state_dir: Path, inbox: Path) -> bool:
    """Whether sweeps of the inbox would find the state folder."""
    if not state_dir.is_relative_to(inbox):
        return False
    return not any(part.startswith(".") for part in state_dir.relative_to(inbox).parts)


# Job files may name anything under voices/ and models/, and a checkpoint's `config.yaml` in the inbox would become a
# job. voices and models may share a folder.
_APART = (
    ("outbox", "inbox"),
    ("inbox", "outbox"),
    *((inner, outer) for inner in ("voices", "models") for outer in ("inbox", "outbox")),
    *((inner, outer) for inner in ("inbox", "outbox") for outer in ("voices", "models", "state_dir")),
    *(("state_dir", outer) for outer in ("outbox", "voices", "models")),
)


def _message(inner: str, outer: str, real: dict[str, Path]) -> str:
    if real[inner] == real[outer]:
        return f"is the same folder as {outer} ({printable(real[inner])}); choose a folder of its own"
    return f"is inside {outer} ({printable(real[inner])}); put it next to it"
