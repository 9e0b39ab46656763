"""status.json: the state of the daemon and of every file, and how others read it.

The daemon replaces `status.json` in its state folder whenever something changes; everybody may read it. Whether the
daemon still runs is known from the kernel: the daemon holds the lock next to it, which only its own user may query.
Others rely on status.json, which the daemon also writes while it is idle.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from files.opens import opened_regular, read_at_most
from files.printable import printable
from jobs.spool import lock
from jobs.spool.inbox_names import is_job_name, is_walked
from jobs.spool.state import user_name
from watcher.config.settings import Config

STATUS_NAME = "status.json"
AT_LEAST_EVERY_S = 15.0
"""The daemon writes status.json this often, also when nothing happens."""
UNSEEN_CURE = "Run this as the daemon's user, or as a member of the group of its folders: `usermod -aG GROUP USER`."
_BELIEVED_S = 3 * AT_LEAST_EVERY_S
SHOWN = 1000
SHOWN_RESULTS = 100
_MAX_BYTES = 64 << 20


class StatusPart(BaseModel):
    """Frozen. A reader ignores keys that a later version adds, and has defaults for those that an older one lacks."""

    model_config = ConfigDict(
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,  # the daemon writes every key
    )


class HoldNow(StatusPart):
    """A problem outside of the spool; work waits until it is fixed."""

    what: str
    """inbox, outbox, worker, work"""
    reason: str = ""
    since: str = ""
    """ISO 8601, UTC, as all times here."""


class Running(StatusPart):
    """A job that is being rendered."""

    job_id: str
    name: str
    """Name of its result: the job file's path in the inbox without extension, or the job's own `name`."""
    file: str = ""
    """The job file's path in the inbox without extension."""
    engine: str = ""
    chunk: int = 0
    """Finished chunks."""
    chunks: int = 0
    """All chunks; 0 until they are counted."""
    started_at: str = ""
    eta_s: float | None = None
    """Estimated seconds left, from the time of the finished chunks."""


class Queued(StatusPart):
    """A claimed job in the queue."""

    job_id: str
    name: str
    file: str = ""
    """As in `running`."""
    place: int = 0
    """1 is next."""
    priority: int = 5
    not_before: str | None = None


class File(StatusPart):
    """A file in the inbox that is not claimed, and why."""

    file: str
    reason: str = ""


class FileSince(File):
    """A file in the inbox that is not claimed, why, and since when."""

    since: str = ""


class Ended(StatusPart):
    """A job that ended."""

    job_id: str
    name: str
    status: Literal["done", "failed", "cancelled"]
    folder: str = ""
    """Where its result was published."""
    finished_at: str = ""
    duration_s: float | None = None
    """Seconds of audio."""
    source_sha256: str = ""
    message: str | None = None
    """Why it failed, what was used instead of its checkpoint, or that its file appeared again."""
    verdict: Literal["ok", "doubtful"] | None = None
    """Result of the checks of the audio; null without audio."""
    reasons: tuple[str, ...] = ()
    """Why the audio is doubtful: the first few reasons. The manifest has all of them."""
    done_since: bool = False
    """The job failed, and a later job of the same name is done."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the audio is doubtful; () when it is not."""
        if self.verdict != "doubtful":
            return ()
        return self.reasons or ("see checks in its manifest",)


class Counts(StatusPart):
    """Numbers of all files and jobs; the lists are bounded. Ended jobs are counted since the daemon started."""

    ready: int = 0
    waiting: int = 0
    queued: int = 0
    running: int = 0
    held: int = 0
    ignored: int = 0
    done: int = 0
    doubtful: int = 0
    """Done jobs with doubtful audio."""
    failed: int = 0
    """Failed jobs, without those counted in `repaired`."""
    repaired: int = 0
    """Failed jobs with a later job of the same name that is done."""
    cancelled: int = 0


class Warm(StatusPart):
    """The model that is loaded."""

    engine: str = ""
    checkpoint: str | None = None


class Settings(StatusPart):
    """The configuration that the daemon uses."""

    file: str | None = None
    """config.yaml; null when there was none and the defaults apply."""
    inbox: str = ""
    outbox: str = ""
    voices: str = ""
    models: str = ""
    state_dir: str = ""
    read_at: str = ""
    """When the file was last read, also if it was invalid."""
    changed: tuple[str, ...] = ()
    """Keys that were changed when the file was last read without an error; they have taken effect."""
    pending_restart: tuple[str, ...] = ()
    """Keys that were changed in the file and need a restart of the daemon."""
    error: str | None = None
    """Error in the file when it was last read; the daemon keeps the previous configuration."""


DaemonState = Literal["starting", "running", "idle", "paused", "hold", "stopping", "stopped"]


class Status(StatusPart):
    """status.json."""

    model_config = ConfigDict(title="voicespool status", populate_by_name=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    version: str = ""
    host: str = ""
    pid: int = 0
    started_at: str = ""
    updated_at: str = ""
    state: DaemonState = "starting"
    holds: tuple[HoldNow, ...] = ()
    counts: Counts = Counts()
    warm: Warm | None = None
    rate: float | None = None
    """Seconds of audio rendered per second during the last minute; null if that is not known."""
    running: tuple[Running, ...] = ()
    """The jobs that are being rendered."""
    next: tuple[Queued, ...] = Field(default=(), max_length=SHOWN)
    """The first jobs of the queue, in order."""
    waiting: tuple[FileSince, ...] = Field(default=(), max_length=SHOWN)
    held: tuple[FileSince, ...] = Field(default=(), max_length=SHOWN)
    ignored: tuple[File, ...] = Field(default=(), max_length=SHOWN)
    results: tuple[Ended, ...] = Field(default=(), max_length=SHOWN_RESULTS)
    """The jobs that ended last, newest last."""
    config: Settings | None = None
    """The configuration that the daemon uses."""

    @property
    def is_written(self) -> bool:
        """Whether a daemon has written it."""
        return bool(self.updated_at)

    @classmethod
    def read(cls, value: object) -> Status:
        """A status of any version, without what this version does not know; of a list, without such entries.

        `running` of an older daemon is an object or null: a list of one or none.
        """
        written = value if isinstance(value, Mapping) else {}
        kept: dict[str, Any] = {}
        for name, kind in cls.model_fields.items():
            part = written.get(kind.alias or name)
            if get_origin(kind.annotation) is tuple:
                entries = part if isinstance(part, list) else [part]
                kept[name] = tuple(_all_valid(get_args(kind.annotation)[0], entries))
            elif (valid := list(_all_valid(kind.annotation, [part]))) and part is not None:
                kept[name] = valid[0]
        return cls.model_construct(**kept)


def _all_valid(kind: Any, values: Iterable[object]) -> Iterator[Any]:
    reader = _reader(kind)
    for value in values:
        with contextlib.suppress(ValidationError):
            yield reader.validate_python(value)


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def schema() -> dict[str, Any]:
    """JSON Schema of status.json."""
    return Status.model_json_schema(by_alias=True, mode="serialization")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What can be known from outside.

    Attributes:
        status: status.json as the daemon last wrote it; an empty one when there is none that can be read.
        daemon: Who holds the inbox's lock: pid, host, started_at; None when nobody does.
        files: Job files in the inbox, at most 1,000; looked up only when no daemon runs.
        files_count: How many there are in all.
        certain: False when this user may not ask for the lock: `daemon` is then what status.json says.
        unseen: What this user may not read, a sentence: status.json, or the inbox while no daemon runs. Else empty.
        unseen_folders: Folders of the inbox that could not be looked into, as paths in it, and why; at most 1,000.
    """

    status: Status
    daemon: Mapping[str, Any] | None
    files: tuple[str, ...] = ()
    files_count: int = 0
    certain: bool = True
    unseen: str = ""
    unseen_folders: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """status.json with `daemon`, and without a daemon the files in the `inbox`."""
        daemon = self.daemon or {}
        known = {key: daemon.get(key) for key in ("pid", "host", "started_at")}
        running = {"running": self.daemon is not None, "certain": self.certain}
        written = self.status.model_dump(mode="json", by_alias=True) if self.status.is_written else {}
        answer = written | {"daemon": {**running, **known}}
        if self.daemon is None:
            unseen = [{"folder": folder, "reason": reason} for folder, reason in self.unseen_folders]
            answer["inbox"] = {"count": self.files_count, "files": list(self.files), "unseen": unseen}
        return answer


def look(config: Config) -> Snapshot:
    """Read status.json and ask whether the daemon lives. Writes nothing, waits for nothing."""
    try:
        status = read(config.state_dir)
    except PermissionError:
        return Snapshot(Status(), None, certain=False, unseen=_unseen(config.state_dir / STATUS_NAME))
    certain = True
    try:
        daemon = lock.holder(config.state_dir / "lock")
    except PermissionError:
        daemon, certain = _by_its_own_word(status), False
    if daemon is not None:
        return Snapshot(status, daemon, certain=certain)
    if os.path.exists(config.inbox) and not os.access(config.inbox, os.R_OK | os.X_OK):
        return Snapshot(status, None, certain=certain, unseen=_unseen(config.inbox))
    files, count, unseen_folders = _in_inbox(config.inbox)
    return Snapshot(status, None, files, count, certain, unseen_folders=unseen_folders)


def read(state_dir: Path) -> Status:
    """Read status.json; an empty one when there is none, or the file is something else.

    Raises:
        PermissionError: This user may not read it.
    """
    try:
        with opened_regular(state_dir / STATUS_NAME) as (fd, _status):
            return Status.read(json.loads(read_at_most(fd, _MAX_BYTES)))
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError):
        return Status()


def _by_its_own_word(status: Status) -> Mapping[str, Any] | None:
    """Who the daemon is, as status.json says; None when that says that it ended, is old, or its process is gone."""
    try:
        age_s = (datetime.now(UTC) - datetime.fromisoformat(status.updated_at)).total_seconds()
    except (TypeError, ValueError):
        return None
    if status.state == "stopped" or age_s > _BELIEVED_S:
        return None
    if status.host == socket.gethostname() and _is_gone(status.pid):
        return None
    return {"pid": status.pid, "host": status.host, "started_at": status.started_at}


def _is_gone(pid: int) -> bool:
    try:
        os.kill(max(pid, 0), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _unseen(path: Path) -> str:
    return f"{printable(path)} can't be read by user {user_name(os.geteuid())}, so the status is unknown"


def _in_inbox(inbox: Path) -> tuple[tuple[str, ...], int, tuple[tuple[str, str], ...]]:
    """Job files in the inbox, how many there are, and the folders that could not be read."""
    files: list[str] = []
    unseen: list[tuple[str, str]] = []
    count = 0

    def refused(error: OSError) -> None:
        if len(unseen) < SHOWN:
            unseen.append((os.path.relpath(os.fsdecode(error.filename), inbox), error.strerror or str(error)))

    for folder, below, names in os.walk(inbox, onerror=refused):
        below[:] = sorted(filter(is_walked, below))
        for name in sorted(filter(is_job_name, names)):
            count += 1
            if len(files) < SHOWN:
                files.append(os.path.relpath(os.path.join(folder, name), inbox))
    return tuple(files), count, tuple(unseen)
