"""The daemon's loop with an executor in its own process."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from jobs.errors import InboxGone
from jobs.order import Order
from tests.in_process import render
from tests.spooling import Spool, spooling
from watcher.config import settings
from watcher.config.settings import Limits
from watcher.daemon.events import Events
from watcher.daemon.loop import Daemon
from watcher.daemon.session import Session
from watcher.daemon.signals import Signals
from watcher.executors.base import Ended, Event
from watcher.readers.pool import Readers


class Here:
    """An `Executor` that renders when it is asked for events.

    Args:
        spoiled: The file of this job's first rendering is missing.

    Attributes:
        submitted: The name of each order, with the results that had been published before it.
        may_end: Whether orders end now.
    """

    may_end: Callable[[], bool]

    def __init__(self, outbox: Path, spoiled: str = "") -> None:
        self.outbox, self.spoiled = outbox, spoiled
        self.submitted: list[tuple[str, list[str]]] = []
        self.order: Order | None = None
        self.readable, self.writable = os.pipe()

    capacity = property(lambda self: int(self.order is None))
    is_ready, warm = True, None

    def fileno(self) -> int:
        return self.readable

    def configure(self, limits: Limits, idle_s: float) -> None:
        pass

    def inherit(self, descriptors: tuple[int, ...]) -> None:
        pass

    def expect(self) -> None:
        pass

    def submit(self, order: Order) -> None:
        assert self.order is None, "the daemon submits more than there is capacity for"
        self.order = order
        self.submitted.append((order.stem, sorted(path.name for path in self.outbox.glob("[!.]*"))))
        os.write(self.writable, b"!")

    def cancel(self, job_id: str, *, at_once: bool) -> None:
        raise AssertionError("no job is cancelled")

    def events(self) -> Sequence[Event]:
        if self.order is None or not self.may_end():
            return []
        os.read(self.readable, 1)
        order, self.order = self.order, None
        rendering = render(order, None)
        if order.stem == self.spoiled:
            self.spoiled = ""
            Path(order.result_dir, rendering.files[0]).unlink()
        return [Ended(order.job_id, rendering)]

    def stop(self, *, at_once: bool) -> None:
        self.order = None


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """Three jobs, a, b and c, in a spool without a daemon."""
    with spooling(tmp_path / "spool", ready={"quiet_s": 0.01}, defaults={"engine": "espeak"}) as spool:
        for name in "abc":
            spool.drop(f"{name}.yaml")
        yield spool


def run_once(spool: Spool, executor: Here) -> int:
    spool.write_config()
    config = settings.load(spool.config_file)
    with (
        Signals() as signals,
        contextlib.closing(Events()) as events,
        contextlib.closing(Readers(config)) as readers,
    ):
        daemon = Daemon(config, spool.config_file, True, events, signals, executor, readers)
        executor.may_end = lambda: (
            not any(spool.inbox.glob("*.yaml")) and daemon.intake is not None and daemon.intake.ended
        )
        return daemon.run(once=True)


def test_the_next_job_is_rendered_while_the_last_is_published(spool: Spool) -> None:
    executor = Here(spool.outbox)
    assert run_once(spool, executor) == 0
    assert executor.submitted == [("a", []), ("b", []), ("c", ["a"])]
    assert spool.results() == ["a", "b", "c"]


def test_a_rendering_that_cannot_be_published_is_repeated_after_the_next_job(spool: Spool) -> None:
    """The executor has the next job already when the first one turns out to lack its file."""
    executor = Here(spool.outbox, spoiled="a")
    assert run_once(spool, executor) == 0
    assert [name for name, _ in executor.submitted] == ["a", "b", "a", "c"]
    attempts = {name: json.loads((spool.outbox / name / "manifest.json").read_bytes())["attempts"] for name in "abc"}
    assert attempts == {"a": 2, "b": 1, "c": 1}


class Turning(Daemon):
    """A daemon whose only turn opens another inbox, or the same one again, as one that was away for a moment."""

    def __init__(self, before: Session, after: Session) -> None:
        self.session, self.after = before, after

    def turn(self, *, wait: bool = True) -> None:
        self.session = self.after


def test_a_job_does_not_continue_in_an_inbox_that_was_closed_meanwhile() -> None:
    """The descriptors that its paths go through are another session's by then."""
    before, after = cast(Session, object()), cast(Session, object())
    Turning(before, before)._turn_between_slices(before)
    with pytest.raises(InboxGone):
        Turning(before, after)._turn_between_slices(before)
