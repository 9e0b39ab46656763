"""The outbox: results are assembled in a hidden folder, then published by one rename.

Everything below the outbox's path is accessed through descriptors of folders, opened without following links. A result
folder is created in the folder where it will be published, so it gets the usual permissions of that place: the group of
a setgid folder, its default ACL, the umask.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from files.durable import from_json, replace, to_json
from files.open_folder import OpenFolder
from jobs.errors import OutboxGone
from jobs.names import RESULT_MARKS, folded, numbered, safe_folders, safe_name
from jobs.results.assembly import Assembly
from jobs.results.outbox_id import SPOOL_FOLDER, create_id, private_folder, read_id, spool_folder, why_gone

MANIFEST = "manifest.json"
MAX_NAMES, MAX_FOLDERS = 250_000, 1_000  # of cached names; about 50 MB
PROBE_BYTES = 64 << 10
TAKEN = frozenset(
    {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
)  # errors of a rename whose target exists and is not an empty folder
NO_PERMISSIONS = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS})  # exFAT, many SMB mounts


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """How results are published.

    Attributes:
        replace: Replace an older result of the same name instead of using the next number.
        folder_mode: Permissions of result folders; files get the same without the x bits. None: from the parent folder
            and the umask.
        group: Numeric group of results. None: from the parent folder.
    """

    replace: bool = False
    folder_mode: int | None = None
    group: int | None = None

    def permit_file(self, fd: int) -> None:
        """Set the configured group and mode of a new file."""
        self._permit(fd, None if self.folder_mode is None else self.folder_mode & 0o666)

    def permit_folder(self, fd: int) -> None:
        """Set the configured group and mode of a new folder. Like chmod(1), keeps an inherited setgid bit."""
        mode = self.folder_mode
        if mode is not None and not mode & 0o7000:
            mode |= os.fstat(fd).st_mode & stat.S_ISGID
        self._permit(fd, mode)

    def _permit(self, fd: int, mode: int | None) -> None:
        if self.group is not None:
            os.fchown(fd, -1, self.group)
        if mode is None or mode == stat.S_IMODE(os.fstat(fd).st_mode):
            return
        try:
            os.fchmod(fd, mode)
        except OSError as error:
            if error.errno not in NO_PERMISSIONS:
                raise


@dataclass(slots=True)
class Outbox:
    """The folder where results are published.

    Methods may raise OSError with the path of the error. Callers use `refuses` to find out whether the whole outbox has
    failed (a hold) or only one folder in it.

    Attributes:
        folder: The outbox; its path may contain links.
        outbox_id: Written into it at first use, so that an unmounted share is not mistaken for it.
        staging: Where results of this inbox are assembled, on the outbox's file system.
        policy: How results are published, now: a reload can change it.
    """

    folder: Path
    outbox_id: str
    staging: Path
    policy: Callable[[], PublishPolicy]
    _owner: int
    _names: dict[Path, dict[int, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, memory: Path, inbox_id: str, policy: Callable[[], PublishPolicy]) -> Outbox:
        """Open an outbox, and create its ID at first use.

        Args:
            memory: File in the state folder that records the path and ID of the outbox.

        Raises:
            OutboxGone: The outbox was used before and is missing or another one now, or others can write to its
                `.voicespool`.
        """
        remembered = from_json(memory)
        outbox_id = read_id(folder)
        if remembered.get("path") == str(folder) and outbox_id != remembered.get("id"):
            raise OutboxGone(why_gone(folder, outbox_id))
        if outbox_id is None:
            outbox_id = create_id(folder)
        if remembered != {"path": str(folder), "id": outbox_id}:
            replace(memory, to_json({"path": str(folder), "id": outbox_id}))
        with OpenFolder.at(folder) as root, spool_folder(root) as spool:
            with contextlib.suppress(FileExistsError):
                spool.make(inbox_id, mode=0o700)
            with private_folder(spool, inbox_id) as staging:
                return cls(folder, outbox_id, staging.path, policy, os.fstat(staging.fd).st_uid)

    def check(self) -> None:
        """Check that the outbox is still the one that was opened.

        Raises:
            OutboxGone: It is not.
        """
        if (outbox_id := read_id(self.folder)) != self.outbox_id:
            self._names.clear()
            raise OutboxGone(why_gone(self.folder, outbox_id))

    def refuses(self) -> OSError | None:
        """Test whether the outbox accepts results, by assembling a small one at its root.

        Returns:
            The error; None if the outbox works, so that only one folder in it, or one large result, has failed.
        """
        probe = f"probe-{secrets.token_hex(8)}"
        try:
            self.check()
            self.assemble(probe, probe, lambda result: result.write("probe", bytes(PROBE_BYTES)))
            with self._opened() as (_, staging):
                staging.remove(probe)
        except OutboxGone as error:
            return FileNotFoundError(errno.ENOENT, error.message, str(self.folder))
        except OSError as error:
            return error
        return None

    def assemble(self, job_id: str, name: str, fill: Callable[[Assembly], None]) -> None:
        """Assemble a result in the staging folder: `fill` writes its files, then all is forced to disk.

        Args:
            name: The job's name; it decides the folder where the result will be published.
        """
        *parents, _ = name.split("/")
        with self._opened() as (root, staging):
            staging.remove(job_id)
            with self._parent(root, parents) as parent, self._created_for(parent, staging, job_id) as folder:
                assembly = Assembly(folder, self.policy().permit_file)
                try:
                    fill(assembly)
                    self.policy().permit_folder(folder.fd)
                    assembly.sync()
                except OSError:
                    with contextlib.suppress(OSError):  # a large partial result would leave no space for others
                        staging.remove(job_id)
                    raise
            staging.sync()  # else a power failure could remove it, and a missing result counts as published

    def is_assembled(self, job_id: str) -> bool:
        """Whether an assembled result is ready to be published."""
        with self._opened() as (_, staging):
            return staging.has(job_id)

    def place(self, job_id: str, name: str, status: str) -> Path:
        """Publish an assembled result under the first free name.

        Args:
            name: The job's name, `radio/hello`.
            status: `done`, `failed` or `cancelled`.

        Returns:
            The published folder.
        """
        *parents, last = name.split("/")
        final = safe_name(last) + RESULT_MARKS[status]
        with self._opened() as (root, staging), self._parent(root, parents) as parent:
            for number in count(1):
                target = numbered(final, number)
                aside = self._set_aside(parent, target, staging)
                if aside is None and self._taken(parent, target):
                    continue
                try:
                    staging.move(job_id, parent, target)
                except OSError as error:
                    if aside is not None:
                        with contextlib.suppress(OSError):
                            staging.move(aside, parent, target)
                    if error.errno in TAKEN:  # another spool has just used this name
                        continue
                    raise
                self._remember(parent, target)
                parent.sync()
                if aside is not None:
                    with contextlib.suppress(OSError):
                        staging.remove(aside)
                return parent.path / target
        raise AssertionError("numbers do not end")

    def clean(self, keep: Callable[[str], bool]) -> None:
        """Remove incomplete results of crashes, except those of job IDs for which `keep` returns true."""
        with self._opened() as (_, staging):
            for name in staging.names():
                if not keep(name):
                    staging.remove(name)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[OpenFolder, OpenFolder]]:
        """The outbox and its staging folder. They are open only while used, so that a share can be unmounted."""
        with (
            OpenFolder.at(self.folder) as root,
            root.below(SPOOL_FOLDER) as spool,
            spool.below(self.staging.name) as staging,
        ):
            yield root, staging

    @contextlib.contextmanager
    def _parent(self, root: OpenFolder, parts: list[str]) -> Iterator[OpenFolder]:
        """Open the folder for results of a subfolder; create it if it is missing."""
        folder = OpenFolder(os.dup(root.fd), root.path)
        try:
            for name in safe_folders(parts):
                above, folder = folder, self._folder_for_results(folder, name)
                os.close(above.fd)
            yield folder
        finally:
            os.close(folder.fd)

    def _folder_for_results(self, above: OpenFolder, name: str) -> OpenFolder:
        """The first folder `name`, `name~2`, … that is not a link, a file or a result itself."""
        for number in count(1):
            try:
                folder = above.below(wanted := numbered(name, number))
            except NotADirectoryError:
                continue
            except FileNotFoundError:
                if self._taken(above, wanted):
                    continue
                return self._created(above, wanted)
            with folder.closed_on_error():
                is_result = folder.has(MANIFEST)
            if not is_result:
                return folder
            os.close(folder.fd)
        raise AssertionError("numbers do not end")

    def _created(self, above: OpenFolder, name: str) -> OpenFolder:
        """Create a parent folder of results."""
        try:
            above.make(name)
        except FileExistsError:  # another spool has just created it
            return self._folder_for_results(above, name)
        folder = self._own(above, name)
        with folder.closed_on_error():
            try:
                self.policy().permit_folder(folder.fd)
            except OSError:
                with contextlib.suppress(OSError):  # else the next attempt would use it with the wrong group
                    os.rmdir(name, dir_fd=above.fd)
                raise
            self._remember(above, name)
            above.sync()
        return folder

    def _created_for(self, parent: OpenFolder, staging: OpenFolder, job_id: str) -> OpenFolder:
        """Create a folder in staging, with the group, ACL and mode of a folder created in `parent`.

        It is created in `parent`, under a hidden name, and moved at once. After a crash in between, the next attempt
        removes it.
        """
        hidden = f"{SPOOL_FOLDER}-{job_id}"
        try:
            parent.make(hidden)
        except FileExistsError:
            parent.remove(hidden)
            parent.make(hidden)
        try:
            parent.move(hidden, staging, job_id)
        except OSError:
            with contextlib.suppress(OSError):
                parent.remove(hidden)
            raise
        return self._own(staging, job_id)

    def _own(self, above: OpenFolder, name: str) -> OpenFolder:
        """Open a folder that was just created.

        Raises:
            PermissionError: Another user has replaced it.
        """
        folder = above.below(name)
        with folder.closed_on_error():
            if os.fstat(folder.fd).st_uid != self._owner:
                raise PermissionError(errno.EPERM, "the folder was replaced by another user", str(folder.path))
        return folder

    def _taken(self, parent: OpenFolder, name: str) -> bool:
        """Whether a name exists, also in another case or Unicode normalisation (the same name on Windows and macOS).

        Listing a folder of 100,000 results for each new result would be slow, so names are cached. The cache may
        contain names that a consumer has removed since; a hit is checked.
        """
        if parent.has(name):
            return True
        key = hash(folded(name))
        if (entry := self._names.get(parent.path, {}).get(key)) is not None and parent.has(entry):
            return True
        if entry is not None or parent.path not in self._names:
            self._names[parent.path] = {hash(folded(name)): name for name in parent.names()}
        return key in self._names[parent.path]

    def _remember(self, parent: OpenFolder, name: str) -> None:
        """Add a name to the cache, if the names of its folder are cached. A full cache is cleared."""
        if (names := self._names.get(parent.path)) is not None:
            names[hash(folded(name))] = name
            if len(names) > MAX_NAMES or len(self._names) > MAX_FOLDERS:
                self._names.clear()

    def _set_aside(self, parent: OpenFolder, name: str, staging: OpenFolder) -> str | None:
        """Move an older result to staging, if the policy is to replace it. Returns its name there."""
        if not self.policy().replace or not _is_result(parent, name):
            return None
        parent.move(name, staging, aside := f"replaced-{secrets.token_hex(8)}")
        return aside


def _is_result(parent: OpenFolder, name: str) -> bool:
    try:
        with parent.below(name) as folder:
            return folder.has(MANIFEST)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
