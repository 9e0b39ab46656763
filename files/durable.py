"""Writing that survives a power failure: new files, replacements, copies, renames, and removal."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from files.opens import BLOCK_BYTES, opened_regular

SLICE_BYTES, SYNC_BYTES = 8 << 20, 32 << 20  # of a long copy: between two breaths; between two waits for the disk


def fsync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file that does not exist yet, and force its content to disk. The caller syncs the folder."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def replace(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write a file so that readers see the old content or the new, nothing between.

    With `durable` the new content and its name are on disk on return.
    """
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    if durable:
        write_new(scratch, data, mode)
    else:
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    os.rename(scratch, path)
    if durable:
        fsync(path.parent)


def to_json(value: Mapping[str, Any]) -> bytes:
    """Compact JSON, plain ASCII, so that names that are not UTF-8 survive the round trip."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def from_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that this program wrote; {} when there is none or a crash left it half-written."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_sparse(file: IO[bytes], block: bytes) -> None:
    """Write a block, or leave a hole of its length where it is all zeros. `truncate` at the end makes the last one."""
    if block.count(0) == len(block):
        file.seek(len(block), os.SEEK_CUR)
    else:
        file.write(block)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a durable copy where that can't be (other file system, no hard links)."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Make a durable copy of a regular file under a new name."""
    with opened_regular(source) as (fd, status), target.open("xb") as writer:
        copy_slices(fd, writer.fileno(), status.st_size)
        os.fsync(writer.fileno())


def nothing() -> None:
    """Do nothing between two slices."""


def copy_slices(source: int, target: int, length_bytes: int, breathe: Callable[[], None] = nothing) -> None:
    """Copy the beginning of one open file into another, empty one.

    `breathe` is called between slices. What is written is forced to disk on the way, so that the last fsync is short.

    Raises:
        OSError: EIO when the source has become shorter; else the system's own.
    """
    copied = 0
    while copied < length_bytes:
        part = _copy_part(source, target, copied, min(SLICE_BYTES, length_bytes - copied))
        if not part:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        before, copied = copied, copied + part
        if before // SYNC_BYTES != copied // SYNC_BYTES:
            os.fdatasync(target)
        if before // SLICE_BYTES != copied // SLICE_BYTES:
            breathe()


def _copy_part(source: int, target: int, offset: int, length_bytes: int) -> int:
    """Copy some bytes from and to the same place: in the kernel, or through memory where that can't be."""
    try:
        if copied := os.copy_file_range(source, target, length_bytes, offset, offset):
            return copied
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    return os.pwrite(target, os.pread(source, min(length_bytes, BLOCK_BYTES), offset), offset)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it; one call may write less."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES}
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


def rename_to_free_name(source: Path, name: str, folder_fd: int) -> bool:
    """Rename a file to a name in an open folder, unless the name is taken. Returns False when it is.

    Where the system can't do that in one step, a hard link fails when the name exists, which a rename does not; a crash
    between link and unlink leaves both names. Where links can't be made either: look, then rename.
    """
    try:
        rename_exclusively(source, name, folder_fd)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
    try:
        os.link(source, name, dst_dir_fd=folder_fd, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        with contextlib.suppress(FileNotFoundError):
            os.lstat(name, dir_fd=folder_fd)
            return False
        os.rename(source, name, dst_dir_fd=folder_fd)
    else:
        os.unlink(source)
    return True


_NOT_OFFERED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def rename_exclusively(source: Path, name: str, folder_fd: int) -> None:
    """renameat2(2) with RENAME_NOREPLACE: rename a file to a name in an open folder.

    Raises:
        FileExistsError: The name is taken.
        OSError: The system's own; EINVAL, ENOSYS or EOPNOTSUPP where it does not offer this.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if renameat2(_AT_FDCWD, os.fsencode(source), folder_fd, os.fsencode(name), _RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(source))


def remove_tree(path: str | Path, dir_fd: int | None = None) -> None:
    """Remove a folder and all in it, or a file or link; nothing happens when it is gone already.

    Args:
        dir_fd: Of the folder that `path` starts in.
    """
    try:
        is_folder = stat.S_ISDIR(os.lstat(path, dir_fd=dir_fd).st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        shutil.rmtree(path, onerror=_unless_gone, dir_fd=dir_fd)
    else:
        os.unlink(path, dir_fd=dir_fd)


def _unless_gone(_function: Any, _path: str, failure: Any) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]
