"""The ID of an outbox, in its `.voicespool`, a folder that only the daemon's user can write to."""

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
    """The ID of an outbox; None if it has none, or does not exist.

    Raises:
        OutboxGone: See `private_folder`.
    """
    try:
        with OpenFolder.at(folder) as root, spool_folder(root) as spool, opened_regular("id", spool.fd) as (fd, _):
            return read_at_most(fd, MAX_ID_BYTES).decode(errors="replace").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def create_id(folder: Path) -> str:
    """Make a folder an outbox: write a new ID into it. Returns the ID."""
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
    """Open the `.voicespool` of an outbox; raises as `private_folder`."""
    return private_folder(root, SPOOL_FOLDER)


def private_folder(above: OpenFolder, name: str) -> OpenFolder:
    """Open a folder that belongs to the daemon's user, and that others can't write to.

    Raises:
        FileNotFoundError: It does not exist.
        OutboxGone: It is a link or a file, belongs to another user, or others can write to it.
    """
    try:
        folder = above.below(name)
    except NotADirectoryError:
        what = "is a link or a file, not a folder of the daemon's user"
        raise OutboxGone(
            f"{above.path / name} {what}",
            "Move it away. Then restore the folder, or use a new outbox: see `outbox.json` in docs/OPERATIONS.md.",
        ) from None
    with folder.closed_on_error():
        if message_and_hint := _not_private(folder):
            raise OutboxGone(*message_and_hint)
    return folder


def _not_private(folder: OpenFolder) -> tuple[str, str] | None:
    """Message and hint if a folder is not private to the daemon's user; else None."""
    status = os.fstat(folder.fd)
    if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
        return None
    # A share without owners or modes reports the same ones for all files, so a new private file shows what to expect.
    owner, mode = _of_a_new_file(folder)
    if status.st_uid != owner:
        words = f"{folder.path} belongs to user {status.st_uid}, not to the daemon's user ({owner})"
        return words, "If the daemon now runs as another user, give the folder and its content to that user (chown -R)."
    if status.st_mode & 0o022 and not mode & 0o077:
        return f"others can write to {folder.path}", f"Run: chmod go-w '{folder.path}'"
    return None


def _of_a_new_file(folder: OpenFolder) -> tuple[int, int]:
    """Owner and mode of a private file that is created in a folder."""
    try:
        fd = folder.create(name := f".probe-{secrets.token_hex(8)}", mode=0o600)
    except PermissionError:  # compare with what a file system with owners would report
        return os.geteuid(), 0o600
    status = os.fstat(fd)
    os.close(fd)
    folder.remove(name)
    return status.st_uid, status.st_mode


def why_gone(folder: Path, outbox_id: str | None) -> str:
    """Why the ID of an outbox is not the expected one."""
    if not folder.is_dir():
        return f"the outbox {folder} is not there"
    if outbox_id is None:
        return f"{folder} is not the outbox that was used before: its .voicespool/id is missing"
    return f"{folder} is the outbox of another spool: its .voicespool/id has changed"
