"""The errors of the spool and of jobs.

    SpoolError                 expected errors, reported to the user; never a bug
    ├── ConfigError            config.yaml or a folder is wrong                     exit code 3
    ├── Hold                   no job is at fault; the spool waits and checks again  exit code 75
    │   ├── LockHeld           another daemon has this inbox
    │   ├── LockLost           the lock expired (network file systems), and another process has it
    │   ├── WorkerUnready      the worker can't be started, or ends before it is ready
    │   ├── InboxGone          the inbox is missing, or is another one
    │   └── OutboxGone         the outbox is missing, or is another one
    └── JobError               this job fails; the next one runs                     exit code 1
        ├── JobInvalid         the job file is wrong; carries every Problem
        ├── RenderFailed       the engine failed, crashed, hung or exceeded a time limit
        └── Cancelled          the user cancelled the job

`code` is for the manifest, `retryable` says whether a retry with a fresh worker makes sense, `hint` says what to do.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence

from files.printable import printable, real_paths
from files.tree import Problem


class SpoolError(Exception):
    """An expected error, reported to the user without a traceback.

    Args:
        message: What is wrong, in one sentence.
        hint: What to do about it (default: the hint of the class).
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
    hint = "Fix the problem above. Nothing is lost; work resumes by itself."


class LockHeld(Hold):
    code = "lock_held"
    hint = "Only one daemon can serve an inbox. Stop the other one, or configure another inbox."


class LockLost(Hold):
    code = "lock_lost"
    hint = "This daemon stops without publishing; no job is lost. Run only one daemon per inbox."


class WorkerUnready(Hold):
    """The worker can't be started, or ended before it was ready for an order. No job is at fault."""

    code = "worker_unready"
    hint = (
        "Free memory, or raise the limits for memory, open files or processes. The log has the worker's output. "
        "Nothing is lost; work resumes by itself."
    )


class InboxGone(Hold):
    code = "inbox_gone"
    hint = (
        "Mount the share again; work resumes by itself. If a program deletes `.voicespool` from the inbox, set "
        "`state_dir` in config.yaml to a folder outside of the inbox, on the same file system."
    )


class OutboxGone(Hold):
    code = "outbox_gone"
    hint = (
        "Mount the share again; work resumes by itself. To change to a new outbox on purpose, see `outbox.json` in "
        "docs/OPERATIONS.md."
    )


class JobError(SpoolError):
    code = "job_failed"
    exit_code = 1


class JobInvalid(JobError):
    """A job file is wrong. `maybe_unfinished`: a syntax error that more bytes could fix."""

    code = "job_invalid"
    hint = (
        "Correct the job file, or the files that it names, and put it (or a copy) into the inbox again. "
        "`voicespool validate FILE` checks it first."
    )

    def __init__(self, problems: Sequence[Problem], *, maybe_unfinished: bool = False) -> None:
        super().__init__("; ".join(map(str, problems[:20])))
        self.problems = tuple(problems)
        self.maybe_unfinished = maybe_unfinished


class RenderFailed(JobError):
    """The engine or its worker failed on this job; `code` and `retryable` depend on how."""

    code = "engine_failed"
    retryable = True
    hint = "To retry, put the job file (or a copy) into the inbox again. `voicespool doctor` checks the machine."

    def __init__(
        self, message: str, hint: str | None = None, *, code: str | None = None, retryable: bool = True
    ) -> None:
        super().__init__(message, hint)
        self.retryable = retryable
        if code is not None:
            self.code = code


class Cancelled(JobError):
    code = "cancelled"
    hint = "To run it after all, put the job file (or a copy) into the inbox again."


OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO})
"""Errors of a disk or share that is full, read-only, broken or gone; never the fault of one file or job."""


@contextlib.contextmanager
def holding(what: str, kind: type[Hold] = Hold) -> Iterator[None]:
    """Turn an OSError into a hold: no job fails, the spool checks again later."""
    try:
        yield
    except OSError as error:
        place = f" ({printable(real_paths(error.filename))})" if error.filename else ""
        raise kind(f"{what}: {error.strerror or printable(error)}{place}") from error
