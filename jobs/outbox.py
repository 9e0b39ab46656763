"""The outbox: results assembled out of sight, then published by one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from jobs.errors import OutboxGone
from jobs.files import from_json, fsync, remove_tree, replace, to_json
from jobs.names import RESULT_MARKS, folded, numbered, safe_folders, safe_name

SPOOL_FOLDER = ".voicespool"
MANIFEST = "manifest.json"
MOST_NAMES, MOST_FOLDERS = 500_000, 1_000  # about 50 MB, once names of results taken away long ago have piled up


@dataclass(frozen=True, slots=True)
class Policy:
    """How results are published.

    Attributes:
        replace: Move an older result of the same name aside instead of taking the next number.
        folder_mode: Permissions of result folders; files get the same without execution. None: the process's umask.
        group: Numeric group of what is published; None: the process's own.
    """

    replace: bool = False
    folder_mode: int | None = None
    group: int | None = None


@dataclass(slots=True)
class Outbox:
    """Where results appear. Every method may raise OSError; callers turn that into a hold.

    Attributes:
        folder: The outbox itself.
        outbox_id: Written into it at first use, so that an unmounted share can't pass for it.
        staging: Where this inbox's results are assembled, on the outbox's own file system.
    """

    folder: Path
    outbox_id: str
    staging: Path
    policy: Policy
    _names: dict[Path, set[int]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, memory: Path, inbox_id: str, policy: Policy) -> Outbox:
        """Open the outbox that `memory` (a file of the inbox's state) remembers, or a new one at first use.

        Raises:
            OutboxGone: It was there before and now is not, or is another one.
        """
        remembered = from_json(memory)
        found = _read_id(folder)
        if remembered.get("path") == str(folder) and found != remembered.get("id"):
            raise OutboxGone(_gone(folder, found))
        if found is None:
            found = _found_new(folder)
        if remembered != {"path": str(folder), "id": found}:
            replace(memory, to_json({"path": str(folder), "id": found}))
        staging = folder / SPOOL_FOLDER / inbox_id
        staging.mkdir(mode=0o700, exist_ok=True)
        return cls(folder, found, staging, policy)

    def check(self) -> None:
        """Make sure that the outbox is still the one that was opened.

        Raises:
            OutboxGone: It is not.
        """
        if (found := _read_id(self.folder)) != self.outbox_id:
            self._names.clear()
            raise OutboxGone(_gone(self.folder, found))

    def refuses(self) -> OSError | None:
        """What the outbox has against being worked with; None when it is well."""
        try:
            replace(self.staging / "probe", b"", durable=False)
            (self.staging / "probe").unlink()
            os.listdir(self.folder)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))
        except OSError as error:
            return error
        return None

    def assemble(self, job_id: str, fill: Callable[[Path], None]) -> Path:
        """Make a result out of sight: `fill` writes its files into an empty folder, then all is forced to disk."""
        folder = self.staging / job_id
        remove_tree(folder)
        folder.mkdir(parents=True, mode=0o700)
        fill(folder)
        for entry in folder.iterdir():
            self._permit(entry, self._folder_mode & 0o666)
            fsync(entry)
        self._permit(folder, self._folder_mode)
        fsync(folder)
        fsync(self.staging)  # what is not there after a power failure counts as published
        return folder

    def place(self, assembled: Path, name: str, status: str) -> Path:
        """Publish an assembled result under the first free name.

        Args:
            assembled: From `assemble`.
            name: The job's name, `radio/hello`.
            status: `done`, `failed` or `cancelled`.

        Returns:
            The folder that is now visible.
        """
        *parents, last = name.split("/")
        parent = self._parent(parents)
        final = safe_name(last) + RESULT_MARKS[status]
        for number in count(1):
            target = parent / numbered(final, number)
            aside = self._set_aside(target) if self.policy.replace and _is_result(target) else None
            if aside is None and self._taken(parent, target.name):
                continue
            try:
                os.rename(assembled, target)
            except OSError as error:
                # Another spool that publishes here was quicker. A rename never replaces a folder with files in it.
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
                continue
            self._remember(target)
            fsync(parent)
            if aside is not None:
                with contextlib.suppress(OSError):
                    remove_tree(aside)
            return target
        raise AssertionError("numbers do not end")

    def clean(self, keep: Callable[[str], bool]) -> None:
        """Remove what crashes left half-assembled, except what `keep` (given a job's id) still wants."""
        for entry in list(self.staging.iterdir()):
            if not keep(entry.name):
                remove_tree(entry)

    def _parent(self, parts: list[str]) -> Path:
        """The folder for results of a subfolder. A result never contains another's: such a name gets a number."""
        folder = self.folder
        for name in safe_folders(parts):
            folder = next(child for n in count(1) if self._can_hold(child := folder / numbered(name, n)))
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                self._permit(folder, self._folder_mode)
                self._remember(folder)
                fsync(folder.parent)
        return folder

    def _can_hold(self, folder: Path) -> bool:
        """Whether results may lie in a folder: one that is no result itself, or one that can be made."""
        if os.path.lexists(folder):
            return folder.is_dir() and not _is_result(folder)
        return not self._taken(folder.parent, folder.name)

    def _taken(self, parent: Path, name: str) -> bool:
        """Whether a name is in use, also in another case or Unicode form (one name on Windows and macOS).

        Listing a folder of 100,000 results for each new one would make the spool slower with every result, so
        the names are read once; a consumer that took one away is noticed by reading them again on a hit.
        """
        if os.path.lexists(parent / name):
            return True
        key = hash(folded(name))
        if parent not in self._names or key in self._names[parent]:
            self._names[parent] = {hash(folded(entry)) for entry in os.listdir(parent)}
        return key in self._names[parent]

    def _remember(self, made: Path) -> None:
        """Note a name that is taken now, if the names beside it are known; there is a bound to what is kept in mind."""
        if (names := self._names.get(made.parent)) is not None:
            names.add(hash(folded(made.name)))
            if len(names) > MOST_NAMES or len(self._names) > MOST_FOLDERS:
                self._names.clear()

    def _set_aside(self, target: Path) -> Path:
        aside = self.staging / f"replaced-{secrets.token_hex(8)}"
        os.rename(target, aside)
        return aside

    @property
    def _folder_mode(self) -> int:
        return 0o777 & ~_UMASK if self.policy.folder_mode is None else self.policy.folder_mode

    def _permit(self, path: Path, mode: int) -> None:
        if self.policy.group is not None:
            os.chown(path, -1, self.policy.group)
        with contextlib.suppress(PermissionError):  # file systems without permissions (exFAT, many SMB mounts)
            os.chmod(path, mode)


def _current_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _current_umask()


def _is_result(folder: Path) -> bool:
    return os.path.lexists(folder / MANIFEST)


def _read_id(folder: Path) -> str | None:
    try:
        return (folder / SPOOL_FOLDER / "id").read_text().strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def _found_new(folder: Path) -> str:
    (folder / SPOOL_FOLDER).mkdir(parents=True, exist_ok=True)
    new_id = secrets.token_hex(16)
    replace(folder / SPOOL_FOLDER / "id", f"{new_id}\n".encode(), mode=0o644)
    fsync(folder)
    return new_id


def _gone(folder: Path, found: str | None) -> str:
    if not folder.is_dir():
        return f"the outbox {folder} is not there"
    if found is None:
        return f"{folder} is there but is not the outbox of before: its .voicespool/id is missing"
    return f"{folder} is the outbox of another spool: its .voicespool/id is not the one that was remembered"
