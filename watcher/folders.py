"""The folders of a configuration: how they may lie, and making them at the first start."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Protocol

from jobs.errors import ConfigError, Hold, Problem, printable
from jobs.tree import Tree


class Folders(Protocol):
    """The paths of a configuration, absolute; `watcher.config.Config` has them."""

    @property
    def inbox(self) -> Path: ...
    @property
    def outbox(self) -> Path: ...
    @property
    def voices(self) -> Path: ...
    @property
    def models(self) -> Path: ...
    @property
    def state_dir(self) -> Path: ...


def overlaps(config: Folders, tree: Tree) -> list[Problem]:
    """Say which folders lie in each other and must not. Symlinks are resolved as far as they lead now."""
    real = {name: Path(os.path.realpath(getattr(config, name))) for name in _FOLDERS}
    problems: dict[frozenset[str], Problem] = {}
    for inner, outer in _APART:
        if real[inner].is_relative_to(real[outer]) and (inner != "state_dir" or inner in tree.value):
            line = tree.line_of((inner,) if inner in tree.value else (outer,))
            problems.setdefault(frozenset((inner, outer)), Problem(_lies(inner, outer, real), inner, line))
    if _shows(real["state_dir"], real["inbox"]):
        message = "inside the inbox it must be, or lie in, a folder whose name starts with a dot"
        problems[frozenset(["state_dir"])] = Problem(message, "state_dir", tree.line_of(("state_dir",)))
    return list(problems.values())


def _shows(state_dir: Path, inbox: Path) -> bool:
    """Whether the scan of the inbox would come across the state folder."""
    if not state_dir.is_relative_to(inbox):
        return False
    return not any(part.startswith(".") for part in state_dir.relative_to(inbox).parts)


_FOLDERS = ("inbox", "outbox", "voices", "models", "state_dir")
# Job files may name anything under voices/ and models/, and the scan of the inbox would take a checkpoint's
# `config.yaml` for a job: these stay apart. voices and models may share a folder.
_APART = (
    ("outbox", "inbox"),
    ("inbox", "outbox"),
    *((inner, outer) for inner in ("voices", "models") for outer in ("inbox", "outbox")),
    *((inner, outer) for inner in ("inbox", "outbox") for outer in ("voices", "models", "state_dir")),
    *(("state_dir", outer) for outer in ("outbox", "voices", "models")),
)


def _lies(inner: str, outer: str, real: dict[str, Path]) -> str:
    if real[inner] == real[outer]:
        return f"is the same folder as {outer} ({printable(real[inner])}); give it one of its own"
    return f"lies inside {outer} ({printable(real[inner])}); put it beside it"


def prepare(config: Folders) -> None:
    """Make the folders that were never there, and check that a claim is one rename. For the daemon's start.

    The outbox is left alone when the state remembers one: then it was there before, and is away.

    Raises:
        ConfigError: a folder was never there and can't be made, is a file, or the state folder lies on
            another file system than the inbox.
        Hold: a folder that is there can't be written.
    """
    _make("inbox", config.inbox)
    if not config.state_dir.exists():
        _make("state_dir", config.state_dir, mode=0o755)
    same_file_system(config)
    if not (config.state_dir / "outbox.json").exists():
        _make("outbox", config.outbox)
    for name in ("voices", "models"):
        _make_if_possible(getattr(config, name))


def same_file_system(config: Folders) -> None:
    """Raise ConfigError when the state folder lies on another file system than the inbox."""
    if config.inbox.stat().st_dev != config.state_dir.stat().st_dev:
        raise ConfigError(
            f"state_dir: {printable(config.state_dir)} is not on the file system of the inbox "
            f"{printable(config.inbox)}, so that a claim can't be one rename",
            "Leave state_dir out, or name a folder on the inbox's file system.",
        )


def _make(key: str, folder: Path, mode: int = 0o777) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{key}: {printable(folder)} is a file, not a folder", "Name a folder.") from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and key == "state_dir":
            raise _not_writable(key, folder, error) from None
        raise ConfigError(
            f"{key}: {printable(folder)} is not there and can't be made: {error.strerror}",
            f"Make it by hand, or set {key} to another folder.",
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _not_writable(key, folder, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def _not_writable(key: str, folder: Path, error: OSError) -> Hold:
    return Hold(
        f"{key}: {printable(folder)} can't be written: {error.strerror}",
        "Let the user that the spool runs as write there; work goes on by itself.",
    )


def _make_if_possible(folder: Path) -> None:
    """voices/ and models/ are only read: without them, a job that names something in them fails by name."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
