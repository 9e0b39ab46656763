"""A spool without a daemon: folders, store and outbox in this process, and a function as worker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from engines.base import EngineClass, EngineInfo
from files import durable
from files.durable import alone
from jobs.errors import Hold, JobError, JobInvalid
from jobs.folders import Spool, SpoolSettings
from jobs.order import Order, Rendering
from jobs.pipeline import Job, Step, begin, finish, resume, take
from jobs.publish import Outcome, Publication, publish
from jobs.results.open_outbox import PublishPolicy
from jobs.results.outbox import Outbox
from jobs.results.outbox_id import SPOOL_FOLDER
from jobs.schedule import Ticket
from jobs.spec.checkpoint_names import Models
from jobs.spec.parse import Document, parse
from jobs.spec.rules import Rules
from jobs.spool.lock import Lock
from jobs.spool.places import Places
from jobs.spool.recordings import Snapshots
from jobs.spool.state import State
from jobs.spool.store import Store

T = TypeVar("T")
Renderer = Callable[[Order, float | None], Rendering]
CHANGES = ("rename", "fsync", "link", "mkdir", "unlink", "rmdir", "ftruncate", "pwrite", "chmod")


class Killed(BaseException):
    """Raised by a simulated kill; nothing in the product catches it."""


@contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """Simulate a kill at the n-th call that changes the disk: neither this call nor later ones have an effect.

    Yields:
        The names of the calls so far. Swallows `Killed`; whether it came to that shows in their number.
    """

    def at(calls: list[str]) -> None:
        if len(calls) >= number:
            raise Killed

    with contextlib.suppress(Killed), _intercepted(at) as calls:
        yield calls


@contextmanager
def refused_at(number: int, times: int, code: int) -> Iterator[list[str]]:
    """Let the n-th call that changes the disk, and some calls after it, fail with a file system error."""

    def at(calls: list[str]) -> None:
        if number <= len(calls) < number + times:
            raise OSError(code, os.strerror(code))

    with _intercepted(at) as calls:
        yield calls


@contextmanager
def _intercepted(at: Callable[[list[str]], None]) -> Iterator[list[str]]:
    watched = (*CHANGES, "open", "write", "copy_file_range", "fchmod", "fchown")
    modules = dict.fromkeys(watched, os) | {"rename_exclusively": durable}
    real = {name: getattr(module, name) for name, module in modules.items()}
    calls: list[str] = []

    def counted(name: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if name in CHANGES or name == "rename_exclusively":
                calls.append(name)
                at(calls)
            elif calls:
                at(calls)
            return real[name](*arguments, **keywords)

        return call

    for name in real:
        setattr(modules[name], name, counted(name))
    try:
        yield calls
    finally:
        for name, function in real.items():
            setattr(modules[name], name, function)


class Voice:
    """The part of an engine that the parser needs; `render` makes the audio."""

    @classmethod
    def info(cls) -> EngineInfo:
        languages = ("en", "pt-BR")
        return EngineInfo(
            "voice", "A voice", "Apache-2.0", "voice", "1.0", None, 16000, languages, clones_voices=True,
            takes_checkpoints=True,
        )  # fmt: skip

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        return tag if tag in {"en", "pt-BR"} else None


ENGINES = cast(Mapping[str, EngineClass], {"voice": Voice})


@dataclass(frozen=True)
class Found:
    """A ready file; see `watcher.daemon.readiness.Arrival`."""

    source: str
    status: os.stat_result
    data: bytes = b""
    documents: tuple[Document, ...] | None = None
    set_aside: str = ""
    invalid: JobInvalid | None = None


def tickets(steps: Iterator[Step]) -> list[Ticket]:
    """The jobs of a file in the queue; no reader is used here."""
    return [step for step in steps if isinstance(step, Ticket)]


def through(steps: Generator[None, None, T]) -> T:
    """The result of work that is done in slices."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


def render(order: Order, timeout_s: float | None) -> Rendering:
    """Make an audio file that depends on the text, and the worker's report about it."""
    data = f"audio of {order.spec.get('text')}".encode()
    Path(order.result_dir, f"{order.stem}.wav").write_bytes(data)
    audio = {
        "file": f"{order.stem}.wav", "sha256": hashlib.sha256(data).hexdigest(), "format": "wav",
        "sample_rate": 16000, "channels": 1, "duration_s": 1.5, "peak_dbfs": -3.0,
    }  # fmt: skip
    return Rendering(
        files=(f"{order.stem}.wav",),
        engine={"name": order.engine},
        voice={"speaker": "x"},
        audio=(audio,),
        segments=({"text": "a", "start_s": 0.0, "end_s": 1.5, "seed": 1},),
        checks={"verdict": "ok"},
        timing={"load_s": 0.1, "synthesis_s": 0.2},
    )


def process(spool: Spool, job_id: str, renderer: Renderer) -> Outcome | None:
    """Take one job from the queue to the outbox as the loop does, with a function as executor.

    Raises:
        Hold: As the renderer, or the file system.
    """
    step = begin(spool, job_id)
    while isinstance(step, Job):
        try:
            result: Rendering | JobError = renderer(step.order, step.spec.timeout_s)
        except JobError as error:
            result = error
        step = finish(spool, step, result)
    if not isinstance(step, Publication):
        return step
    (outcome,) = publish(spool, [step])
    if isinstance(outcome, Hold):
        raise outcome
    return outcome


@dataclass
class Desk:
    """A spool's folders below `folder`, which a test can open and close repeatedly.

    Attributes:
        settings: Of `Spool`: max_bytes, attempts, deaths, limits, after_slice.
    """

    folder: Path
    outbox: Path | None = None
    policy: PublishPolicy = field(default_factory=PublishPolicy)
    settings: dict[str, Any] = field(default_factory=dict)
    spool: Spool | None = None

    def __post_init__(self) -> None:
        self.outbox_folder = self.outbox or self.folder / "outbox"
        for path in (self.inbox, self.state, self.voices, self.outbox_folder):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def state(self) -> Path:
        return self.inbox / ".voicespool"

    @property
    def voices(self) -> Path:
        return self.folder / "voices"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def results(self) -> Path:
        return self.outbox_folder

    def open(self) -> Spool:
        """Do what a daemon does when it starts."""
        with contextlib.ExitStack() as undo:
            state = State.open(self.state)
            undo.callback(state.close)
            lock = Lock.acquire(self.state / "lock")
            undo.callback(lock.release)
            store = Store.open(self.inbox, state)
            undo.callback(store.close)
            store.empty_trash()
            settings = {name: self.settings[name] for name in SpoolSettings.__slots__ if name in self.settings}
            places = Places(self.inbox, self.voices, self.state)
            in_use = SpoolSettings(
                rules=Rules(engines=ENGINES, default_engine="voice", models=Models(self.models)),
                device={},
                **{"max_bytes": 1 << 20, "attempts": 3, "deaths": 10, **settings},
            )
            spool = Spool(
                store=store,
                lock=lock,
                outbox=None,
                snapshots=Snapshots(self.state / "recordings", lambda: places),
                in_use=lambda: in_use,
                **{name: value for name, value in self.settings.items() if name not in settings},
            )
            spool.snapshots.sweep()
            undo.pop_all()
        self.spool = spool
        return spool

    def close(self) -> None:
        """Do what a kill does: the kernel releases the lock and closes the files, nothing more."""
        if self.spool is not None:
            self.spool.store.close()
            self.spool.store.folder.close()
            self.spool.lock.release()
            self.spool = None

    def find_outbox(self) -> None:
        """Open the outbox as a daemon does before a job."""
        spool = self.opened
        if spool.outbox is None:
            outbox = Outbox.open(
                self.outbox_folder, self.state / "outbox.json", spool.store.inbox_id, lambda: self.policy
            )
            outbox.clean(keep=lambda job_id: bool(spool.store.folder_of(job_id).record().intent))
            spool.outbox = outbox

    @property
    def opened(self) -> Spool:
        return self.spool or self.open()

    def drop(self, source: str, content: str | bytes = "text: hello\n") -> Path:
        path = self.inbox / source
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(".scratch")
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        os.rename(scratch, path)
        return path

    def look(self, source: str) -> Found:
        """Read a file as arrivals do."""
        path = self.inbox / source
        status, data = os.lstat(path), path.read_bytes()
        try:
            documents: tuple[Document, ...] | None = parse(data, path.suffix.lower(), self.opened.settings.rules)
        except JobInvalid:
            documents = None
        return Found(source, status, data, documents)

    def look_at_large(self, source: str) -> Found:
        """The same for a file that must not be read."""
        return Found(source, os.lstat(self.inbox / source), set_aside="the file is too large")

    def take(self, source: str) -> list[Ticket]:
        return self.take_found(self.look(source))

    def take_found(self, found: Found) -> list[Ticket]:
        return tickets(alone(take(self.opened, found)))

    def resume(self) -> list[Ticket]:
        return [ticket for job_id in self.opened.store.claimed_ids() for ticket in self.resumed(job_id)]

    def resumed(self, job_id: str) -> list[Ticket]:
        return tickets(resume(self.opened, job_id))

    def process(self, ticket: Ticket, renderer: Any = render) -> Outcome | None:
        self.find_outbox()
        return process(self.opened, ticket.job_id, renderer)

    def run(self, source: str, content: str | bytes = "text: hello\n") -> Path:
        """Drop one job, process it, and return the folder of its result."""
        self.drop(source, content)
        (ticket,) = self.take(source)
        outcome = self.process(ticket)
        assert outcome is not None
        return outcome.folder

    def claimed(self) -> list[str]:
        return sorted(os.listdir(self.state / "claimed"))

    def published(self) -> dict[str, dict[str, Any]]:
        """All visible results: path in the outbox -> manifest. An incomplete one fails the test."""
        return {str(folder.relative_to(self.results)): whole(folder) for folder in results_below(self.results)}


def results_below(outbox: Path) -> Iterator[Path]:
    """All folders that a consumer would take for results: those with files."""
    for folder, folders, names in os.walk(outbox):
        folders[:] = [name for name in folders if name != SPOOL_FOLDER]
        if names:
            assert not folders, f"{folder} is a result with another one inside"
            yield Path(folder)


def whole(folder: Path) -> dict[str, Any]:
    """Check that a result is complete, and return its manifest."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    names = set(os.listdir(folder))
    assert all(audio["file"] in names for audio in manifest["audio"])
    for audio in manifest["audio"]:
        assert hashlib.sha256((folder / audio["file"]).read_bytes()).hexdigest() == audio["sha256"]
    assert ("ERROR.txt" in names) == (manifest["status"] != "done")
    assert any(name.lower().endswith((".yaml", ".yml", ".json")) for name in names - {"manifest.json"})
    return manifest


@contextmanager
def desk(folder: Path, **arguments: Any) -> Iterator[Desk]:
    """A desk, closed at the end."""
    opened = Desk(folder, **arguments)
    try:
        yield opened
    finally:
        opened.close()
