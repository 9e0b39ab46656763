"""The outbox: results assembled out of sight, then published by one rename.

Everything below the outbox's own path is done through descriptors of folders, opened without following links. Whatever
is published is made in the folder that it appears in, so that it has what any file made there has: the group of a
setgid folder, its default ACL, the umask.
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
from jobs.results.outbox_id import SPOOL_FOLDER, found_new, gone, ours_alone, read_id, spool_folder

MANIFEST = "manifest.json"
MAX_NAMES, MAX_FOLDERS = 250_000, 1_000  # about 50 MB, once names of results taken away long ago have piled up
PROBE_BYTES = 64 << 10
TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})  # a rename never replaces a folder with files in it
NO_PERMISSIONS = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS})  # exFAT, many SMB mounts


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """How results are published.

    Attributes:
        replace: Move an older result of the same name aside instead of taking the next number.
        folder_mode: Permissions of result folders; files get the same without execution. None: as the folder they are
            made in and the umask say.
        group: Numeric group of what is published. None: as the folder it is made in says.
    """

    replace: bool = False
    folder_mode: int | None = None
    group: int | None = None

    def permit_file(self, fd: int) -> None:
        """Set the group and the mode of a new file, where they are asked for."""
        self._permit(fd, None if self.folder_mode is None else self.folder_mode & 0o666)

    def permit_folder(self, fd: int) -> None:
        """The same for a folder. As with chmod(1), a mode without special bits leaves an inherited setgid alone."""
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
    """Where results appear.

    Every method may raise OSError, with the path that it happened at. Callers ask `refuses` whether that concerns the
    outbox (a hold) or one folder in it alone.

    Attributes:
        folder: The outbox itself; its path may contain links.
        outbox_id: Written into it at first use, so that an unmounted share can't pass for it.
        staging: Where this inbox's results are assembled, on the outbox's own file system.
    """

    folder: Path
    outbox_id: str
    staging: Path
    policy: PublishPolicy
    _owner: int
    _names: dict[Path, dict[int, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, memory: Path, inbox_id: str, policy: PublishPolicy) -> Outbox:
        """Open the outbox that `memory` (a file of the inbox's state) remembers, or a new one at first use.

        Raises:
            OutboxGone: It was there before and now is not, or is another one; or its `.voicespool` is not ours alone.
        """
        remembered = from_json(memory)
        found = read_id(folder)
        if remembered.get("path") == str(folder) and found != remembered.get("id"):
            raise OutboxGone(gone(folder, found))
        if found is None:
            found = found_new(folder)
        if remembered != {"path": str(folder), "id": found}:
            replace(memory, to_json({"path": str(folder), "id": found}))
        with OpenFolder.at(folder) as root, spool_folder(root) as spool:
            with contextlib.suppress(FileExistsError):
                spool.make(inbox_id, mode=0o700)
            with ours_alone(spool, inbox_id) as staging:
                return cls(folder, found, staging.path, policy, os.fstat(staging.fd).st_uid)

    def check(self) -> None:
        """Make sure that the outbox is still the one that was opened.

        Raises:
            OutboxGone: It is not.
        """
        if (found := read_id(self.folder)) != self.outbox_id:
            self._names.clear()
            raise OutboxGone(gone(self.folder, found))

    def refuses(self) -> OSError | None:
        """Find out whether the outbox as a whole takes no results now, by assembling a small one at its root.

        Returns:
            What went wrong; None when the trouble lies with one folder in the outbox, or with one large result.
        """
        probe = f"probe-{secrets.token_hex(8)}"
        try:
            self.check()
            self.assemble(probe, probe, lambda result: result.write("probe", bytes(PROBE_BYTES)))
            with self._opened() as (_, staging):
                staging.remove(probe)
        except OutboxGone as gone:
            return FileNotFoundError(errno.ENOENT, gone.message, str(self.folder))
        except OSError as error:
            return error
        return None

    def assemble(self, job_id: str, name: str, fill: Callable[[Assembly], None]) -> None:
        """Make a result out of sight: `fill` writes its files into an empty folder, then all is forced to disk.

        Args:
            name: The job's name; the result is made for the folder that it will be placed in.
        """
        *parents, _ = name.split("/")
        with self._opened() as (root, staging):
            staging.remove(job_id)
            with self._parent(root, parents) as parent, self._made_for(parent, staging, job_id) as folder:
                assembly = Assembly(folder, self.policy.permit_file)
                try:
                    fill(assembly)
                    self.policy.permit_folder(folder.fd)
                    assembly.sync()
                except OSError:
                    with contextlib.suppress(OSError):  # half a large result would fill the disk for all others
                        staging.remove(job_id)
                    raise
            staging.sync()  # what is not there after a power failure counts as published

    def is_assembled(self, job_id: str) -> bool:
        """Whether a result lies ready to be placed."""
        with self._opened() as (_, staging):
            return staging.has(job_id)

    def place(self, job_id: str, name: str, status: str) -> Path:
        """Publish an assembled result under the first free name.

        Args:
            name: The job's name, `radio/hello`.
            status: `done`, `failed` or `cancelled`.

        Returns:
            The folder that is now visible.
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
                    if error.errno in TAKEN:  # another spool that publishes here was quicker
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
        """Remove what crashes left half-assembled, except what `keep` (given a job's id) still wants."""
        with self._opened() as (_, staging):
            for name in staging.names():
                if not keep(name):
                    staging.remove(name)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[OpenFolder, OpenFolder]]:
        """The outbox and its staging folder. Nothing stays open in between, so that a share can be unmounted."""
        with (
            OpenFolder.at(self.folder) as root,
            root.below(SPOOL_FOLDER) as spool,
            spool.below(self.staging.name) as staging,
        ):
            yield root, staging

    @contextlib.contextmanager
    def _parent(self, root: OpenFolder, parts: list[str]) -> Iterator[OpenFolder]:
        """The folder for results of a subfolder; one that is missing is made."""
        folder = OpenFolder(os.dup(root.fd), root.path)
        try:
            for name in safe_folders(parts):
                above, folder = folder, self._folder_for_results(folder, name)
                os.close(above.fd)
            yield folder
        finally:
            os.close(folder.fd)

    def _folder_for_results(self, above: OpenFolder, name: str) -> OpenFolder:
        """The first folder `name`, `name~2`, … that may hold results: no link, no file, and no result itself."""
        for number in count(1):
            try:
                folder = above.below(wanted := numbered(name, number))
            except NotADirectoryError:
                continue
            except FileNotFoundError:
                if self._taken(above, wanted):
                    continue
                return self._made(above, wanted)
            with folder.closed_on_error():
                is_result = folder.has(MANIFEST)
            if not is_result:
                return folder
            os.close(folder.fd)
        raise AssertionError("numbers do not end")

    def _made(self, above: OpenFolder, name: str) -> OpenFolder:
        """A new folder on the way to results."""
        try:
            above.make(name)
        except FileExistsError:  # another spool that publishes here was quicker
            return self._folder_for_results(above, name)
        folder = self._own(above, name)
        with folder.closed_on_error():
            try:
                self.policy.permit_folder(folder.fd)
            except OSError:
                with contextlib.suppress(OSError):  # or the next try would use it with the wrong group
                    os.rmdir(name, dir_fd=above.fd)
                raise
            self._remember(above, name)
            above.sync()
        return folder

    def _made_for(self, parent: OpenFolder, staging: OpenFolder, job_id: str) -> OpenFolder:
        """A new folder in the staging folder with the group, the ACL and the mode of one that is made in `parent`.

        It is made there, under a hidden name, and moved at once. If a crash comes in between, the next try finds it.
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
        """Open a folder that was made just now.

        Raises:
            PermissionError: Somebody else put a folder of their own in its place.
        """
        folder = above.below(name)
        with folder.closed_on_error():
            if os.fstat(folder.fd).st_uid != self._owner:
                raise PermissionError(errno.EPERM, "somebody put another folder in its place", str(folder.path))
        return folder

    def _taken(self, parent: OpenFolder, name: str) -> bool:
        """Whether a name is in use, also in another case or Unicode form (one name on Windows and macOS).

        Listing a folder of 100,000 results for each new one would make the spool slower with every result, so
        the names are read once; that a consumer took one away is noticed on a hit.
        """
        if parent.has(name):
            return True
        key = hash(folded(name))
        if (there := self._names.get(parent.path, {}).get(key)) is not None and parent.has(there):
            return True
        if there is not None or parent.path not in self._names:
            self._names[parent.path] = {hash(folded(entry)): entry for entry in parent.names()}
        return key in self._names[parent.path]

    def _remember(self, parent: OpenFolder, name: str) -> None:
        """Note a name that is taken now, if the names beside it are known; there is a bound to what is kept in mind."""
        if (names := self._names.get(parent.path)) is not None:
            names[hash(folded(name))] = name
            if len(names) > MAX_NAMES or len(self._names) > MAX_FOLDERS:
                self._names.clear()

    def _set_aside(self, parent: OpenFolder, name: str, staging: OpenFolder) -> str | None:
        """Move an older result out of the way, if that is the policy. Returns its name in the staging folder."""
        if not self.policy.replace or not _is_result(parent, name):
            return None
        parent.move(name, staging, aside := f"replaced-{secrets.token_hex(8)}")
        return aside


def _is_result(parent: OpenFolder, name: str) -> bool:
    try:
        with parent.below(name) as folder:
            return folder.has(MANIFEST)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
