"""Writes that survive a power failure: new files, replacements, copies, renames and removal."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from files.opens import BLOCK_BYTES, opened_regular

T = TypeVar("T")
SLICE_BYTES = 8 << 20  # `copy_slices` calls `after_slice` this often
SYNC_BYTES = 32 << 20  # `copy_slices` calls fdatasync this often


def fsync(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    sync_and_close([path])


def create(path: str | Path, data: bytes, mode: int = 0o600, *, may_exist: bool = False) -> int:
    """Create a file with this content. Returns its descriptor, for `sync_and_close`.

    Args:
        may_exist: Overwrite an existing file. It is not replaced at once, so nobody may need its content any more.
    """
    how = os.O_TRUNC if may_exist else os.O_EXCL
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | how | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        write_all(fd, data)
    except OSError:
        os.close(fd)
        raise
    return fd


def empty_folder(path: Path) -> None:
    """Make a private folder, or remove what is in it."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):  # never what a link points to
            path.unlink()
            path.mkdir(mode=0o700)
        for name in os.listdir(path):
            remove_tree(path / name)


def start_writing(fd: int) -> None:
    """Start to write a file to disk, without waiting. If many are started first, each is forced to disk sooner."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_and_close(files: Sequence[int | Path]) -> None:
    """Force files and folders to disk, in this order, and close those that are given by their descriptor.

    Files that are written first and forced to disk together cost much less than one after the other: a file system
    with a journal commits them at once.
    """
    rest = deque(files)
    try:
        while rest:
            first = rest.popleft()
            fd = os.open(first, os.O_RDONLY | os.O_CLOEXEC) if isinstance(first, Path) else first
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    finally:
        for left in rest:
            if not isinstance(left, Path):
                with contextlib.suppress(OSError):
                    os.close(left)


Durably = Generator[Sequence[int | Path], None, T]
"""Work that yields what must be on disk before it continues: descriptors, which are closed then, and folders."""


def together(works: Iterable[Durably[T]]) -> list[T | Exception]:
    """Do several works at once: what all of them yield in one round is forced to disk together.

    Returns:
        For each its result, or the exception that it raised. An error of the disk is raised where the work has yielded.
    """
    results: list[T | Exception] = []
    left: list[tuple[int, Durably[T], OSError | None]] = []
    for number, work in enumerate(works):
        results.append(RuntimeError("it has not ended"))
        left.append((number, work, None))
    while left:
        yielded = []
        for number, work, error in left:
            try:
                yielded.append((number, work, next(work) if error is None else work.throw(error)))
            except StopIteration as end:
                results[number] = end.value
            except Exception as raised:  # noqa: BLE001 - for the caller, who knows whose work it was
                results[number] = raised
        left = [(number, work, _sync_error(fds)) for number, work, fds in yielded]
    return results


def _sync_error(fds: Sequence[int | Path]) -> OSError | None:
    try:
        sync_and_close(fds)
    except OSError as error:
        return error
    return None


def alone(work: Durably[T]) -> T:
    """Do one work."""
    (result,) = together([work])
    if isinstance(result, Exception):
        raise result
    return result


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create a file and force its content to disk. The caller syncs the folder."""
    sync_and_close([create(path, data, mode)])


def replace(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace a file atomically: readers see either the old content or the new.

    With `durable`, the new content and its name are on disk on return.
    """
    scratch = path.with_name(f".{path.name}.new")
    try:
        fd = create(scratch, data, mode)
    except FileExistsError:  # a crash left it
        scratch.unlink()
        fd = create(scratch, data, mode)
    if durable:
        sync_and_close([fd])
    else:
        os.close(fd)
    os.rename(scratch, path)
    if durable:
        fsync(path.parent)


def to_json(value: Mapping[str, Any]) -> bytes:
    """Compact ASCII JSON, so that file names that are not UTF-8 survive the round trip."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def from_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that voicespool wrote; {} if the file is missing or was cut short by a crash."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_sparse(file: IO[bytes], block: bytes) -> None:
    """Write a block; a block of zeros becomes a hole. Call `truncate` at the end, in case the last block is a hole."""
    if block.count(0) == len(block):
        file.seek(len(block), os.SEEK_CUR)
    else:
        file.write(block)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or make a durable copy where that is impossible (other file system, no hard links)."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a regular file to a new name, durably."""
    with opened_regular(source) as (fd, status), target.open("xb") as writer:
        copy_slices(fd, writer.fileno(), status.st_size)
        os.fsync(writer.fileno())


def do_nothing() -> None:
    """The default for `after_slice`."""


def copy_slices(source: int, target: int, length_bytes: int, after_slice: Callable[[], None] = do_nothing) -> None:
    """Copy the first bytes of an open file into another, empty one.

    Calls `after_slice` every SLICE_BYTES. Forces data to disk every SYNC_BYTES, so that the final fsync is short.

    Raises:
        OSError: EIO if the source became shorter, else the error of the system.
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
            after_slice()


def _copy_part(source: int, target: int, offset: int, length_bytes: int) -> int:
    """Copy some bytes at the same offset: in the kernel, or through memory where the kernel can't."""
    try:
        # Some file systems return 0 instead of an error; pread then shows whether the file ends here.
        if copied := os.copy_file_range(source, target, length_bytes, offset, offset):
            return copied
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    return os.pwrite(target, os.pread(source, min(length_bytes, BLOCK_BYTES), offset), offset)


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes; a single write(2) may write fewer."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES}
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


def rename_to_free_name(source: Path, name: str, folder_fd: int) -> bool:
    """Rename a file to a name in an open folder. Returns False, and does nothing, if the name exists.

    Uses renameat2; where it is not supported, link and unlink (a crash between the two leaves both names); where hard
    links are not supported either, lstat and rename.
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
        OSError: The error of the system; EINVAL, ENOSYS or EOPNOTSUPP if it does not support this.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library without this function
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if renameat2(_AT_FDCWD, os.fsencode(source), folder_fd, os.fsencode(name), _RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(source))


def remove_tree(path: str | Path, dir_fd: int | None = None) -> None:
    """Remove a folder with its content, a file or a link. Does nothing if it does not exist; never follows a link.

    Args:
        dir_fd: Descriptor of the folder that `path` is relative to.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path, dir_fd=dir_fd)
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.name, fd)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path, dir_fd=dir_fd)
