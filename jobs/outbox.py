"""The outbox: results assembled out of sight, then published by one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import OutboxGone
from jobs.files import from_json, fsync, remove_tree, replace, to_json
from jobs.names import RESULT_MARKS, folded, numbered, safe_name

SPOOL_FOLDER = ".voicespool"
MANIFEST = "manifest.json"


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
        number = 1
        while True:
            target = parent / numbered(final, number)
            if self.policy.replace and _is_result(target):
                self._set_aside(target)
            elif self._taken(parent, target.name):
                number += 1
                continue
            try:
                os.rename(assembled, target)
            except OSError as error:
                # Another spool that publishes here was quicker. A rename never replaces a folder with files in it.
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
                number += 1
                continue
            self._names.setdefault(parent, set()).add(hash(folded(target.name)))
            fsync(parent)
            return target

    def clean(self, keep: Callable[[str], bool]) -> None:
        """Remove what crashes left half-assembled, except what `keep` (given a job's id) still wants."""
        for entry in list(self.staging.iterdir()):
            if not keep(entry.name):
                remove_tree(entry)

    def _parent(self, parts: list[str]) -> Path:
        """The folder for results of a subfolder. A result never contains another's: such a name gets a number."""
        folder = self.folder
        for part in parts:
            number = 1
            while _is_result(child := folder / numbered(safe_name(part), number)) or _is_no_folder(child):
                number += 1
            if not child.is_dir():
                child.mkdir(exist_ok=True)
                self._permit(child, self._folder_mode)
                fsync(folder)
            folder = child
        return folder

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

    def _set_aside(self, target: Path) -> None:
        aside = self.staging / f"replaced-{secrets.token_hex(8)}"
        os.rename(target, aside)
        with contextlib.suppress(OSError):
            remove_tree(aside)

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


def _is_no_folder(path: Path) -> bool:
    return os.path.lexists(path) and not path.is_dir()


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
