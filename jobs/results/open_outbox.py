"""The outbox while results are published: they are assembled in its staging folder, and shown by one rename each."""

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

from files.open_folder import OpenFolder
from jobs.names import RESULT_MARKS, folded, numbered, safe_folders, safe_name
from jobs.results.assembly import Assembly
from jobs.results.outbox_id import SPOOL_FOLDER

MANIFEST = "manifest.json"
MAX_NAMES, MAX_FOLDERS = 250_000, 1_000  # of cached names; about 50 MB
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
class OpenOutbox:
    """The folders of an outbox, held open while a group of results is published.

    Methods may raise OSError with the path of the error. First `assemble` each result, then `sync` each, then
    `sync_staging`: each result is then complete on disk, and `place` can show it. After the last, `sync_places`.

    Attributes:
        root: The outbox.
        staging: Where results are assembled.
        owner: User ID of the daemon, as the outbox's file system shows it.
        names: Hashes of the names in folders where results were published, and the names.
    """

    root: OpenFolder
    staging: OpenFolder
    policy: PublishPolicy
    owner: int
    names: dict[Path, dict[int, str]]
    _parents: dict[tuple[str, ...], OpenFolder] = field(default_factory=dict)
    _assemblies: dict[str, Assembly] = field(default_factory=dict)
    _aside: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Close all folders but the two that were given."""
        for assembly in self._assemblies.values():
            assembly.close()
        for parent in self._parents.values():
            os.close(parent.fd)

    # --- assemble ----------------------------------------------------------------------------------

    def assemble(self, job_id: str, name: str, fill: Callable[[Assembly], None]) -> None:
        """Assemble a result: `fill` writes its files.

        Args:
            name: The job's name; it decides the folder where the result will be published.
        """
        self.staging.remove(job_id)
        assembly = Assembly(self._created_for(self._parent(name), job_id), self.policy.permit_file)
        self._assemblies[job_id] = assembly
        with self._removed_on_error(job_id):
            fill(assembly)
            self.policy.permit_folder(assembly.folder.fd)

    def sync(self, job_id: str) -> None:
        """Force the files of an assembled result, and their names, to disk."""
        with self._removed_on_error(job_id):
            self._assemblies[job_id].sync()

    def sync_staging(self) -> None:
        """Without it, a power failure could remove a result, and a missing result counts as published."""
        self.staging.sync()

    @contextlib.contextmanager
    def _removed_on_error(self, job_id: str) -> Iterator[None]:
        try:
            yield
        except OSError:
            with contextlib.suppress(OSError):  # a large partial result would leave no space for others
                self.staging.remove(job_id)
            raise

    def is_assembled(self, job_id: str) -> bool:
        """Whether an assembled result is ready to be published."""
        return self.staging.has(job_id)

    # --- place -------------------------------------------------------------------------------------

    def place(self, job_id: str, name: str, status: str) -> Path:
        """Publish an assembled result under the first free name.

        Args:
            name: The job's name, `radio/hello`.
            status: `done`, `failed` or `cancelled`.

        Returns:
            The published folder.
        """
        final, parent = safe_name(name.rpartition("/")[2]) + RESULT_MARKS[status], self._parent(name)
        for number in count(1):
            target = numbered(final, number)
            aside = self._set_aside(parent, target)
            if aside is None and self._taken(parent, target):
                continue
            try:
                self.staging.move(job_id, parent, target)
            except OSError as error:
                if aside is not None:
                    with contextlib.suppress(OSError):
                        self.staging.move(aside, parent, target)
                if error.errno in TAKEN:  # another spool has just used this name
                    continue
                raise
            self._remember(parent, target)
            self._aside += [aside] if aside is not None else []
            return parent.path / target
        raise AssertionError("numbers do not end")

    def sync_places(self) -> None:
        """Force the names of the published results to disk, then remove those that they replaced."""
        errors = []
        for parent in self._parents.values():
            try:
                parent.sync()
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        for aside in self._aside:
            with contextlib.suppress(OSError):
                self.staging.remove(aside)

    # --- folders and names in the outbox -----------------------------------------------------------

    def _parent(self, name: str) -> OpenFolder:
        """Open the folder for the result of a job; create it if it is missing."""
        parts = tuple(safe_folders(name.split("/")[:-1]))
        if (known := self._parents.get(parts)) is not None:
            return known
        folder = OpenFolder(os.dup(self.root.fd), self.root.path)
        try:
            for part in parts:
                above, folder = folder, self._folder_for_results(folder, part)
                os.close(above.fd)
        except OSError:
            os.close(folder.fd)
            raise
        self._parents[parts] = folder
        return folder

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
                self.policy.permit_folder(folder.fd)
            except OSError:
                with contextlib.suppress(OSError):  # else the next attempt would use it with the wrong group
                    os.rmdir(name, dir_fd=above.fd)
                raise
            self._remember(above, name)
            above.sync()
        return folder

    def _created_for(self, parent: OpenFolder, job_id: str) -> OpenFolder:
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
            parent.move(hidden, self.staging, job_id)
        except OSError:
            with contextlib.suppress(OSError):
                parent.remove(hidden)
            raise
        return self._own(self.staging, job_id)

    def _own(self, above: OpenFolder, name: str) -> OpenFolder:
        """Open a folder that was just created.

        Raises:
            PermissionError: Another user has replaced it.
        """
        folder = above.below(name)
        with folder.closed_on_error():
            if os.fstat(folder.fd).st_uid != self.owner:
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
        if (entry := self.names.get(parent.path, {}).get(key)) is not None and parent.has(entry):
            return True
        if entry is not None or parent.path not in self.names:
            self.names[parent.path] = {hash(folded(name)): name for name in parent.names()}
        return key in self.names[parent.path]

    def _remember(self, parent: OpenFolder, name: str) -> None:
        """Add a name to the cache, if the names of its folder are cached. A full cache is cleared."""
        if (names := self.names.get(parent.path)) is not None:
            names[hash(folded(name))] = name
            if len(names) > MAX_NAMES or len(self.names) > MAX_FOLDERS:
                self.names.clear()

    def _set_aside(self, parent: OpenFolder, name: str) -> str | None:
        """Move an older result to staging, if the policy is to replace it. Returns its name there."""
        if not self.policy.replace or not _is_result(parent, name):
            return None
        parent.move(name, self.staging, aside := f"replaced-{secrets.token_hex(8)}")
        return aside


def _is_result(parent: OpenFolder, name: str) -> bool:
    try:
        with parent.below(name) as folder:
            return folder.has(MANIFEST)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
