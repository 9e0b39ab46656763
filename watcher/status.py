"""status.json: what the daemon says of itself and of every file, and how others read it.

The daemon replaces `status.json` in its state folder whenever something changes; anybody may read it. Whether
the daemon still lives is the kernel's word: it holds the lock next to it, which its own user may ask for. Others have
to believe status.json, which the daemon also writes at rest.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs import lock
from jobs.errors import printable
from jobs.files import opened_regular, read_at_most
from jobs.state import user_name
from watcher.config import Config
from watcher.ignored import is_job_name, is_walked

STATUS_NAME = "status.json"
AT_LEAST_EVERY_S = 15.0
"""The daemon writes status.json this often, also when nothing happens."""
UNSEEN_CURE = (
    "Run this as the user that the spool runs as, or as a member of the group of its folders: `usermod -aG GROUP USER`."
)
_BELIEVED_S = 3 * AT_LEAST_EVERY_S
SHOWN = 1000
SHOWN_RESULTS = 100
_LARGEST_BYTES = 64 << 20


class Part(BaseModel):
    """Frozen; readers must allow for keys that a later version adds."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class HoldNow(Part):
    """Something that has to be mended outside before work goes on."""

    what: str
    """inbox, outbox, worker, work"""
    reason: str
    since: str
    """ISO 8601, UTC, as all times here."""


class Running(Part):
    """The job that is being rendered."""

    job_id: str
    name: str
    """Of its result: the job file's path in the inbox without extension, or the job's own `name`."""
    file: str = ""
    """The job file's path in the inbox without extension."""
    engine: str
    chunk: int
    """Chunks that are done."""
    chunks: int
    """Chunks in all; 0 while they are not counted yet."""
    started_at: str
    eta_s: float | None
    """Seconds that are left, as far as the finished chunks tell."""


class Queued(Part):
    """A claimed job that waits for its turn."""

    job_id: str
    name: str
    file: str = ""
    """As in `running`."""
    place: int
    """1 is next."""
    priority: int
    not_before: str | None = None


class File(Part):
    """A file in the inbox that is not claimed, and why."""

    file: str
    reason: str


class FileSince(File):
    """A file in the inbox that is not claimed, why, and since when."""

    since: str


class Ended(Part):
    """A job that ended."""

    job_id: str
    name: str
    status: Literal["done", "failed", "cancelled"]
    folder: str
    """Where its result was published."""
    finished_at: str
    duration_s: float | None
    """Seconds of audio."""
    source_sha256: str
    message: str | None
    """Why it failed, what took the place of its checkpoint, or that its file came back."""


class Counts(Part):
    """How many there are in all; the lists are bounded. Ended jobs are counted since the daemon started."""

    ready: int = 0
    waiting: int = 0
    queued: int = 0
    running: int = 0
    held: int = 0
    ignored: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0


class Warm(Part):
    """The model that is loaded."""

    engine: str
    checkpoint: str | None


class Status(Part):
    """status.json."""

    model_config = ConfigDict(title="voicespool status", populate_by_name=True)

    schema_: Literal[1] = Field(1, alias="schema")
    version: str
    host: str
    pid: int
    started_at: str
    updated_at: str
    state: Literal["starting", "running", "idle", "paused", "hold", "stopping", "stopped"]
    holds: tuple[HoldNow, ...] = ()
    counts: Counts
    warm: Warm | None = None
    running: Running | None = None
    next: tuple[Queued, ...] = Field((), max_length=SHOWN)
    """The first of the queue, in order."""
    waiting: tuple[FileSince, ...] = Field((), max_length=SHOWN)
    held: tuple[FileSince, ...] = Field((), max_length=SHOWN)
    ignored: tuple[File, ...] = Field((), max_length=SHOWN)
    results: tuple[Ended, ...] = Field((), max_length=SHOWN_RESULTS)
    """The last that ended, newest last."""


def schema() -> dict[str, Any]:
    """JSON Schema of status.json."""
    return Status.model_json_schema(by_alias=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What can be known from outside.

    Attributes:
        status: status.json as the daemon last wrote it; {} when there is none that can be read.
        daemon: Who holds the inbox's lock: pid, host, started_at; None when nobody does.
        files: Job files that lie in the inbox, at most 1,000; looked up only when no daemon runs.
        files_count: How many there are in all.
        certain: False when this user may not ask for the lock: `daemon` is then what status.json says.
        unseen: What this user may not read, a sentence: status.json, or the inbox while no daemon runs. Else empty.
    """

    status: Mapping[str, Any]
    daemon: Mapping[str, Any] | None
    files: tuple[str, ...] = ()
    files_count: int = 0
    certain: bool = True
    unseen: str = ""

    def as_json(self) -> dict[str, Any]:
        """status.json, and with it `daemon`, and without a daemon what lies in the `inbox`."""
        daemon = self.daemon or {}
        known = {key: daemon.get(key) for key in ("pid", "host", "started_at")}
        running = {"running": self.daemon is not None, "certain": self.certain}
        answer = dict(self.status) | {"daemon": {**running, **known}}
        if self.daemon is None:
            answer["inbox"] = {"count": self.files_count, "files": list(self.files)}
        return answer


def look(config: Config) -> Snapshot:
    """Read status.json and ask whether the daemon lives. Writes nothing, waits for nothing."""
    try:
        status = read(config.state_dir)
    except PermissionError:
        return Snapshot({}, None, certain=False, unseen=_unseen(config.state_dir / STATUS_NAME))
    certain = True
    try:
        daemon = lock.holder(config.state_dir / "lock")
    except PermissionError:
        daemon, certain = _by_its_own_word(status), False
    if daemon is not None:
        return Snapshot(status, daemon, certain=certain)
    if os.path.exists(config.inbox) and not os.access(config.inbox, os.R_OK | os.X_OK):
        return Snapshot(status, None, certain=certain, unseen=_unseen(config.inbox))
    files, count = _in_inbox(config.inbox)
    return Snapshot(status, None, files, count, certain)


def read(state_dir: Path) -> Mapping[str, Any]:
    """status.json as it is; {} when there is none, or it is none.

    Raises:
        PermissionError: This user may not read it.
    """
    try:
        with opened_regular(state_dir / STATUS_NAME) as (fd, _status):
            status = json.loads(read_at_most(fd, _LARGEST_BYTES))
    except PermissionError:
        raise
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _by_its_own_word(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Who the daemon is, as status.json says; None when that says that it ended, is old, or its process is gone."""
    try:
        age_s = (datetime.now(UTC) - datetime.fromisoformat(status["updated_at"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None
    if status.get("state") == "stopped" or age_s > _BELIEVED_S:
        return None
    return None if status.get("host") == socket.gethostname() and _is_gone(status.get("pid")) else status


def _is_gone(pid: object) -> bool:
    try:
        os.kill(pid if isinstance(pid, int) and pid > 0 else 0, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _unseen(path: Path) -> str:
    return f"{printable(path)} can't be read by user {user_name(os.geteuid())}, so nothing can be said about the spool"


def entries(status: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """One of the lists in status.json, without what can't be one of its entries; [] when it is not there."""
    found = status.get(key)
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _in_inbox(inbox: Path) -> tuple[tuple[str, ...], int]:
    """Job files that wait for a daemon to come."""
    files: list[str] = []
    count = 0
    for folder, below, names in os.walk(inbox):
        below[:] = sorted(filter(is_walked, below))
        for name in sorted(filter(is_job_name, names)):
            count += 1
            if len(files) < SHOWN:
                files.append(os.path.relpath(os.path.join(folder, name), inbox))
    return tuple(files), count
