"""What `voicespool models list` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from files.printable import printable, short_path
from watcher.cli.display.layout import Row, Table, clean
from watcher.models.pull import in_mb


def models(states: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line for each, below it the licence and the folder or the command that downloads it."""
    return Table(("name", "model", ">size", "state"), [*map(_row, states)])


def _row(one: Mapping[str, Any]) -> Row:
    is_here = one["folder"] is not None
    size = in_mb(one["size_bytes"]) if one["size_bytes"] else ""
    notes = [f"licence: {printable(one['licence'])}"]
    if is_here:
        notes.append(f"folder: {short_path(one['folder'])}")
    elif one["command"]:
        begun = f" ({in_mb(one['downloaded_bytes'])} of it downloaded)" if one["downloaded_bytes"] else ""
        notes.append(f"to download it: `{one['command']}`{begun}")
    notes += [f"not usable: {short_path(folder)}: {printable(fault)}" for folder, fault in one["not_usable"].items()]
    state = "ready" if is_here else "missing"
    return Row((clean(one["name"], "bold"), clean(one["title"]), size, state), notes)
