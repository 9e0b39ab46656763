"""`voicespool init`: a working folder to start from, with a documented config.yaml."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from files.durable import write_new
from files.printable import printable
from jobs.errors import Hold
from jobs.spool.state import FOLDER_MODE
from watcher.config.settings import CONFIG_NAME, Config

FOLDERS = ("inbox", "outbox", "voices", "models")
STATE_FOLDER = ".voicespool-state"  # next to the inbox, where those who write into the inbox can't change it
EXAMPLE_NAME = "example.yaml"
EXAMPLE = """\
# A job. Drop this file into inbox/, or run `voicespool submit example.yaml`.
# The result is outbox/example/. `voicespool schema job` lists every key, and
# `voicespool validate example.yaml` checks the file.
text: |
  Hello! This is voicespool. [pause 500ms]
  Change this text and drop the file again.
language: en
"""

_WIDTH = 80
_HEAD = """\
# Configuration of voicespool. Every key is optional; a key that is missing or
# commented out has its default. Durations (_s) are in seconds, sizes (_bytes)
# in bytes. Relative paths are relative to this file. `voicespool doctor` checks
# this file; `voicespool reload` makes a running daemon read it again.
"""


def template() -> str:
    """The documented config.yaml, generated from the models."""
    return "\n".join([_HEAD.rstrip(), *_section(Config, "")]) + "\n"


def _section(model: type[BaseModel], indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if not indent:
            yield ""
        comment = " ".join((field.description or "").split())
        yield from textwrap.wrap(comment, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield f"{indent}{name}:"
            yield from _section(kind, indent + "  ")
        else:
            yield f"{indent}{_line(name, field)}"


def _line(name: str, field: FieldInfo) -> str:
    """A key with its default; commented out if it has none."""
    if name == "state_dir":
        return f"{name}: {STATE_FOLDER}"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None:
        return f"# {name}:"
    return f"{name}: {_value(default)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{}"
    return str(value)


def start(folder: Path) -> list[tuple[Path, bool]]:
    """Create a working folder. Existing files stay as they are.

    Returns:
        Each file and folder, and whether it was created now.

    Raises:
        Hold: One can't be created.
    """
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FOLDERS:
            new = not (folder / name).exists()
            (folder / name).mkdir(exist_ok=True)
            made.append((folder / name, new))
        if not (folder / CONFIG_NAME).exists():
            new = not (folder / STATE_FOLDER).exists()
            (folder / STATE_FOLDER).mkdir(FOLDER_MODE, exist_ok=True)
            made.append((folder / STATE_FOLDER, new))
        for name, text in ((CONFIG_NAME, template()), (EXAMPLE_NAME, EXAMPLE)):
            made.append((folder / name, _write(folder / name, text)))
    except OSError as error:
        raise Hold(
            f"{printable(error.filename or folder)} can't be created: {error.strerror}", "Choose another folder."
        ) from None
    return made


def _write(path: Path, text: str) -> bool:
    try:
        write_new(path, text.encode(), 0o644)
    except FileExistsError:
        return False
    return True
