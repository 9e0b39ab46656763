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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from files.durable import from_json, replace, to_json
from files.open_folder import OpenFolder
from jobs.errors import OutboxGone
from jobs.results.open_outbox import OpenOutbox, PublishPolicy
from jobs.results.outbox_id import SPOOL_FOLDER, create_id, private_folder, read_id, spool_folder, why_gone

PROBE_BYTES = 64 << 10


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
        owner: User ID of the daemon, as the outbox's file system shows it.
        names: Of the folders in the outbox where results were published; see `OpenOutbox`.
    """

    folder: Path
    outbox_id: str
    staging: Path
    policy: Callable[[], PublishPolicy]
    owner: int
    names: dict[Path, dict[int, str]] = field(default_factory=dict)

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
            self.names.clear()
            raise OutboxGone(why_gone(self.folder, outbox_id))

    def refuses(self) -> OSError | None:
        """Test whether the outbox accepts results, by assembling a small one at its root.

        Returns:
            The error; None if the outbox works, so that only one folder in it, or one large result, has failed.
        """
        probe = f"probe-{secrets.token_hex(8)}"
        try:
            self.check()
            with self.opened() as opened:
                opened.assemble(probe, probe, lambda result: result.write("probe", bytes(PROBE_BYTES)))
                opened.sync(probe)
                opened.staging.remove(probe)
        except OutboxGone as error:
            return FileNotFoundError(errno.ENOENT, error.message, str(self.folder))
        except OSError as error:
            return error
        return None

    def clean(self, keep: Callable[[str], bool]) -> None:
        """Remove incomplete results of crashes, except those of job IDs for which `keep` returns true."""
        with self.opened() as opened:
            for name in opened.staging.names():
                if not keep(name):
                    opened.staging.remove(name)

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenOutbox]:
        """The folders of the outbox. They are open only while used, so that a share can be unmounted."""
        with (
            OpenFolder.at(self.folder) as root,
            root.below(SPOOL_FOLDER) as spool,
            spool.below(self.staging.name) as staging,
            contextlib.closing(OpenOutbox(root, staging, self.policy(), self.owner, self.names)) as opened,
        ):
            yield opened
