"""Whose an outbox is: the id in its `.voicespool`, a folder that nobody but the daemon may put anything into."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from files.durable import write_all
from files.open_folder import OpenFolder
from files.opens import opened_regular, read_at_most
from jobs.errors import OutboxGone

SPOOL_FOLDER = ".voicespool"
MAX_ID_BYTES = 1024


def read_id(folder: Path) -> str | None:
    """The id of an outbox; None when it has none, or is not there.

    Raises:
        OutboxGone: Its `.voicespool` is not ours alone.
    """
    try:
        with OpenFolder.at(folder) as root, spool_folder(root) as spool, opened_regular("id", spool.fd) as (fd, _):
            return read_at_most(fd, MAX_ID_BYTES).decode(errors="replace").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def found_new(folder: Path) -> str:
    """Make an outbox of a folder: write an id into it. Returns the id."""
    folder.mkdir(parents=True, exist_ok=True)
    new_id = secrets.token_hex(16)
    with OpenFolder.at(folder) as root:
        with contextlib.suppress(FileExistsError):
            root.make(SPOOL_FOLDER, mode=0o755)
        with spool_folder(root) as spool:
            spool.remove(".id.new")
            fd = spool.create(".id.new", mode=0o644)
            try:
                write_all(fd, f"{new_id}\n".encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            spool.move(".id.new", spool, "id")
            spool.sync()
        root.sync()
    return new_id


def spool_folder(root: OpenFolder) -> OpenFolder:
    """The `.voicespool` of an outbox; raises as `ours_alone`."""
    return ours_alone(root, SPOOL_FOLDER)


def ours_alone(above: OpenFolder, name: str) -> OpenFolder:
    """Open a folder that nobody else can have put there, or put something into.

    Raises:
        FileNotFoundError: There is none.
        OutboxGone: It is a link, a file, of another user, or may be written to by others.
    """
    try:
        folder = above.below(name)
    except NotADirectoryError:
        what = "is a link or a file, not a folder of the daemon's own user"
        raise OutboxGone(
            f"{above.path / name} {what}",
            "Move it away. Then restore the folder, or begin with a new outbox: see OPERATIONS.md on `outbox.json`.",
        ) from None
    with folder.closed_on_error():
        if complaint := _not_ours(folder):
            raise OutboxGone(*complaint)
    return folder


def _not_ours(folder: OpenFolder) -> tuple[str, str] | None:
    """What is wrong with a folder that should be the daemon's alone, and the cure."""
    found = os.fstat(folder.fd)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        return None
    # A share that knows no owners or modes shows the same ones for everything, also for a file that is surely ours.
    owner, mode = _of_a_new_file(folder)
    if found.st_uid != owner:
        words = f"{folder.path} belongs to user {found.st_uid}, not to the daemon's own ({owner})"
        return words, "If the daemon runs as another user than before, give the folder and all in it to that user."
    if found.st_mode & 0o022 and not mode & 0o077:
        return f"others may write to {folder.path}", f"Run: chmod go-w '{folder.path}'"
    return None


def _of_a_new_file(folder: OpenFolder) -> tuple[int, int]:
    """Owner and mode that a private file gets which is made in a folder."""
    try:
        fd = folder.create(name := f".probe-{secrets.token_hex(8)}", mode=0o600)
    except PermissionError:
        return os.geteuid(), 0o600
    status = os.fstat(fd)
    os.close(fd)
    folder.remove(name)
    return status.st_uid, status.st_mode


def gone(folder: Path, found: str | None) -> str:
    """Why the id that was found is not the one that was expected, in words."""
    if not folder.is_dir():
        return f"the outbox {folder} is not there"
    if found is None:
        return f"{folder} is there but is not the outbox of before: its .voicespool/id is missing"
    return f"{folder} is the outbox of another spool: its .voicespool/id is not the one that was remembered"
