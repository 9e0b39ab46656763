"""`voicespool cancel`: looks for the jobs of a name first, and says which are cancelled or why none is."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from files.printable import printable
from jobs.spec.problems import nearest
from jobs.spool.inbox_names import CANCEL_SUFFIX, JOB_SUFFIXES
from watcher.client import drop
from watcher.client.results import results_of
from watcher.client.status import STATUS_NAME, Snapshot, Status, look
from watcher.client.submit import Refused
from watcher.config.settings import Config

TRY_S = 5.0
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class CancelTarget:
    """A job of the name.

    Attributes:
        name: Its own, which has a number behind the name where its file holds several.
        state: `running`, `queued`, `waiting` or `held`.
        reason: Why it waits or is held.
    """

    name: str
    state: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.state}{f' ({printable(self.reason)})' if self.reason else ''}"


def cancel(config: Config, name: str, pause: Callable[[float], None] = time.sleep) -> list[str]:
    """Ask for all jobs of a name to be cancelled.

    Returns:
        Sentences: which jobs these are, and what is not certain.

    Raises:
        Refused: There is none, it has ended, or it is held and can't be taken; no cancel file is left.
        Hold: The inbox can't be written.
    """
    snapshot = look(config)
    found, unseen = list(_found(config, snapshot.status, name)), _unseen(config, snapshot)
    if not found and not unseen:
        raise _nothing(config, snapshot, name)
    drop.cancel(config.inbox, name)
    said = [f"cancelling {one}" for one in found] or [
        f"{printable(name)}: not found, but {unseen}; if the job exists, the daemon cancels it"
    ]
    if snapshot.daemon is None and not unseen:
        seen = "" if snapshot.certain else ", as far as this user may see"
        left = f"the next one reads {printable(name)}{CANCEL_SUFFIX} in the inbox"
        return [*said, f"no daemon is running{seen}; {left}"]
    if held := next((one for one in found if one.state == "held"), None):
        _see_that_it_goes(config, name, held, pause)
    return said


def _found(config: Config, status: Status, name: str) -> Iterator[CancelTarget]:
    claimed = [("running", job.name, job.file) for job in status.running]
    claimed += [("queued", job.name, job.file) for job in status.next]
    for state, own_name, file in claimed:
        if printable(name) in {own_name, file or own_name}:
            yield CancelTarget(printable(own_name), state)
    told = False
    for state, files in (("waiting", status.waiting), ("held", status.held)):
        for entry in files:
            if _is_of(entry.file, printable(name)):
                told = True
                yield CancelTarget(printable(name), state, entry.reason)
    if not told and any(_in_inbox(config, name)):
        yield CancelTarget(printable(name), "waiting")


def _is_of(file: str, name: str) -> bool:
    """Whether an entry for a file, or for a folder that can't be looked into, is about a job of this name."""
    return name.startswith(file) if file.endswith("/") else _without_suffix(file) == name


def _without_suffix(file: str) -> str:
    stem, dot, ending = file.rpartition(".")
    return stem if f"{dot}{ending}".lower() in JOB_SUFFIXES else file


def _in_inbox(config: Config, name: str) -> Iterator[Path]:
    """Job files of the name.

    Raises:
        OSError: Their folder can't be looked into.
    """
    for suffix in JOB_SUFFIXES:
        for path in (config.inbox / f"{name}{suffix}", config.inbox / f"{name}{suffix.upper()}"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(path)
                yield path


def _unseen(config: Config, snapshot: Snapshot) -> str:
    """What of the jobs can't be seen from here, in words; "" when all of them can."""
    path = config.state_dir / STATUS_NAME
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        return "the running daemon has not written its status yet" if snapshot.daemon is not None else ""
    except OSError as error:
        return f"{printable(path)} can't be read ({error.strerror})"
    status, counts = snapshot.status, snapshot.status.counts
    lists = (("queued", status.next, counts.queued), ("waiting", status.waiting, counts.waiting))
    for key, listed, count in (*lists, ("held", status.held, counts.held)):
        if count > len(listed):
            return f"only {len(listed)} of {count} {key} jobs are listed in {STATUS_NAME}"
    return ""


def _nothing(config: Config, snapshot: Snapshot, name: str) -> Refused:
    """Why there is nothing to cancel."""
    if results := results_of(config.outbox, name):
        last = results[-1]
        ended = f"{printable(name)} has ended ({printable(last.status, 20)})"
        return Refused(
            f"{ended}; its result is {printable(last.folder, 5000)}", "Only waiting and running jobs can be cancelled."
        )
    for result in reversed(snapshot.status.results):
        if result.name == printable(name):
            ended = f"{printable(name)} has ended ({result.status})"
            return Refused(f"{ended}; its result was {printable(result.folder, 5000)}", "")
    near = nearest(printable(name), _known(snapshot))
    hint = "`voicespool status` lists the jobs; a name is the path in the inbox without extension."
    return Refused(f"no waiting, queued or running job is named {printable(name)}{near}", hint)


def _known(snapshot: Snapshot) -> Iterator[str]:
    """Names of the jobs that there are."""
    status = snapshot.status
    yield from (job.name for job in status.next)
    yield from (job.name for job in status.running)
    yield from (_without_suffix(entry.file) for entry in (*status.waiting, *status.held))
    yield from (_without_suffix(printable(file)) for file in snapshot.files)


def _see_that_it_goes(config: Config, name: str, held: CancelTarget, pause: Callable[[float], None]) -> None:
    """A held file is one that the daemon could not take: wait until it has tried again.

    Raises:
        Refused: It is still there; the cancel file is not.
    """
    asked, deadline = config.inbox / f"{name}{CANCEL_SUFFIX}", time.monotonic() + config.ready.scan_s + TRY_S
    while any(_in_inbox(config, name)):
        if not os.path.lexists(asked) or time.monotonic() > deadline:
            with contextlib.suppress(OSError):
                asked.unlink(missing_ok=True)
            raise Refused(
                f"{held}; the daemon can't move it out of its folder, so it is not cancelled",
                "Delete the file, or let the daemon's user write in its folder.",
            )
        pause(LOOK_S)
