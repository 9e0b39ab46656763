"""What can go wrong with the spool and with a job, and what each means for people and programs.

    SpoolError                 something to tell the user; never a bug
    ├── ConfigError            config.yaml or a folder is wrong                      exit code 3
    ├── Hold                   nothing is wrong with any job; wait and look again     exit code 75
    │   ├── LockHeld           another daemon has this inbox
    │   ├── LockLost           the lock lapsed (network file systems) and somebody else has it
    │   ├── WorkerUnready      the worker can't be started, or ends before it is ready
    │   ├── InboxGone          the inbox is not there, or is another one
    │   └── OutboxGone         the outbox is not there, or is not the one of before
    └── JobError               this job can't be done; it fails, the next one runs    exit code 1
        ├── JobInvalid         its file is wrong; carries every Problem found
        ├── RenderFailed       the engine failed, crashed, hung or ran out of time
        └── Cancelled          somebody asked for it

`code` goes to the manifest, `retryable` says whether a fresh worker is worth a try, `hint` tells the user what to do.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence

from files.printable import printable, real_paths
from files.tree import Problem


class SpoolError(Exception):
    """Something to tell the user.

    Args:
        message: What is wrong, in one sentence.
        hint: What to do about it; default: the class's own.
    """

    code = "error"
    exit_code = 70
    retryable = False
    hint = ""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class ConfigError(SpoolError):
    code = "config"
    exit_code = 3


class Hold(SpoolError):
    code = "hold"
    exit_code = 75
    hint = "Mend what is named here; nothing is lost, and work goes on from where it is."


class LockHeld(Hold):
    code = "lock_held"
    hint = "One daemon per inbox: stop the other one, or give this one an inbox of its own."


class LockLost(Hold):
    code = "lock_lost"
    hint = "Another daemon took this inbox over; this one stops without publishing."


class WorkerUnready(Hold):
    """The worker can't be started, or ended before it was ready for an order: that is never a job's fault."""

    code = "worker_unready"
    hint = (
        "Free memory, or raise the limits on memory, open files or processes; the log has all that the worker "
        "printed. Nothing is lost, and work resumes by itself."
    )


class InboxGone(Hold):
    code = "inbox_gone"
    hint = (
        "Mount the share again; work goes on by itself. If a program deletes `.voicespool` from the inbox, "
        "set `state_dir` in config.yaml."
    )


class OutboxGone(Hold):
    code = "outbox_gone"
    hint = "Mount the share again; work goes on by itself. If a new outbox is meant, see docs on `outbox.json`."


class JobError(SpoolError):
    code = "job_failed"
    exit_code = 1


class JobInvalid(JobError):
    """A job file is wrong. `maybe_unfinished` when more bytes could mend it (syntax, not values)."""

    code = "job_invalid"
    hint = (
        "Correct the job file, or what it names, and put it into the inbox again (a copy will do); "
        "`voicespool validate FILE` checks it beforehand."
    )

    def __init__(self, problems: Sequence[Problem], *, maybe_unfinished: bool = False) -> None:
        super().__init__("; ".join(map(str, problems[:20])))
        self.problems = tuple(problems)
        self.maybe_unfinished = maybe_unfinished


class RenderFailed(JobError):
    """The engine or its worker failed on this job; code and retryable are set by what happened."""

    code = "engine_failed"
    retryable = True
    hint = "Put the job file into the inbox again to retry (a copy will do); `voicespool doctor` checks the machine."

    def __init__(
        self, message: str, hint: str | None = None, *, code: str | None = None, retryable: bool = True
    ) -> None:
        super().__init__(message, hint)
        self.retryable = retryable
        if code is not None:
            self.code = code


class Cancelled(JobError):
    code = "cancelled"
    hint = "Put the job file into the inbox again to run it after all (a copy will do)."


OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO})
"""What a disk or a share answers that is full, read-only, broken or away: never the fault of one file or job."""


@contextlib.contextmanager
def holding(what: str, kind: type[Hold] = Hold) -> Iterator[None]:
    """Turn what the system refuses into a hold: nothing fails for it, the spool looks again later."""
    try:
        yield
    except OSError as error:
        place = f" ({printable(real_paths(error.filename))})" if error.filename else ""
        raise kind(f"{what}: {error.strerror or printable(error)}{place}") from error
