"""`voicespool cancel`: looks for the jobs of a name first, and says which are cancelled or why none is."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.printable import printable
from jobs.spec.problems import nearest
from jobs.spool.inbox_names import CANCEL_SUFFIX, JOB_SUFFIXES
from watcher.client import drop
from watcher.client.results import results_of
from watcher.client.status import STATUS_NAME, Snapshot, entries, look
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


def _found(config: Config, status: Mapping[str, Any], name: str) -> Iterator[CancelTarget]:
    for state, shown in (("running", "running"), ("queued", "next")):
        for entry in entries(status, shown):
            if printable(name) in _names(entry):
                yield CancelTarget(printable(entry.get("name")), state)
    told = False
    for state in ("waiting", "held"):
        for entry in entries(status, state):
            if _is_of(str(entry.get("file")), printable(name)):
                told = True
                yield CancelTarget(printable(name), state, str(entry.get("reason")))
    if not told and any(_in_inbox(config, name)):
        yield CancelTarget(printable(name), "waiting")


def _names(entry: Mapping[str, Any]) -> set[str]:
    """What a claimed job may be called: by its own name, or by that of its file."""
    return {str(entry.get("name")), str(entry.get("file") or entry.get("name"))}


def _is_of(file: str, name: str) -> bool:
    """Whether an entry for a file, or for a folder that can't be looked into, is about a job of this name."""
    return name.startswith(file) if file.endswith("/") else _without_suffix(file) == name


def _without_suffix(file: object) -> str:
    stem, dot, ending = str(file).rpartition(".")
    return stem if f"{dot}{ending}".lower() in JOB_SUFFIXES else str(file)


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
    counts = snapshot.status.get("counts")
    for key, shown in (("queued", "next"), ("waiting", "waiting"), ("held", "held")):
        listed, count = len(entries(snapshot.status, shown)), counts.get(key) if isinstance(counts, Mapping) else 0
        if isinstance(count, int) and count > listed:
            return f"only {listed} of {count} {key} jobs are listed in {STATUS_NAME}"
    return ""


def _nothing(config: Config, snapshot: Snapshot, name: str) -> Refused:
    """Why there is nothing to cancel."""
    if results := results_of(config.outbox, name):
        last = results[-1]
        ended = f"{printable(name)} has ended ({printable(last.status, 20)})"
        return Refused(
            f"{ended}; its result is {printable(last.folder, 5000)}", "Only waiting and running jobs can be cancelled."
        )
    for entry in reversed(entries(snapshot.status, "results")):
        if entry.get("name") == printable(name):
            ended = f"{printable(name)} has ended ({printable(entry.get('status'), 20)})"
            return Refused(f"{ended}; its result was {printable(entry.get('folder'), 5000)}", "")
    near = nearest(printable(name), _known(snapshot))
    hint = "`voicespool status` lists the jobs; a name is the path in the inbox without extension."
    return Refused(f"no waiting, queued or running job is named {printable(name)}{near}", hint)


def _known(snapshot: Snapshot) -> Iterator[str]:
    """Names of the jobs that there are."""
    status = snapshot.status
    yield from (str(entry.get("name")) for key in ("next", "running") for entry in entries(status, key))
    yield from (_without_suffix(entry.get("file")) for key in ("waiting", "held") for entry in entries(status, key))
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
