"""From the inbox to the queue, in slices: what no other test of arrivals or of the pipeline can see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.schedule import URGENT
from jobs.spool.claim import ClaimFolder
from tests.spooling import until
from watcher.config.settings import Config, ReadyConfig
from watcher.daemon.events import Events
from watcher.daemon.intake import Intake
from watcher.daemon.session import Session


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Intake]:
    config = Config(
        inbox=tmp_path / "inbox",
        outbox=tmp_path / "outbox",
        voices=tmp_path / "voices",
        models=tmp_path / "models",
        state_dir=tmp_path / "state",
        ready=ReadyConfig(quiet_s=0.01, scan_s=0.01),
    )
    events = Events()
    session = Session.open(config, events)
    yield Intake(session, lambda _ticket: None, list)
    session.close()
    events.close()


def stepped_until_queued(intake: Intake, count: int) -> None:
    def queued() -> bool:
        intake.step()
        return len(intake.session.schedule) == count

    until(queued, f"{count} jobs are queued")


def test_the_cancellation_of_many_jobs_is_done_one_at_a_time(intake: Intake) -> None:
    """Each is forced to disk; a thousand of them would keep the loop away for seconds."""
    session, inbox = intake.session, intake.session.config.inbox
    (inbox / "a.yaml").write_text("---\n".join("text: a\n" for _ in range(30)))
    stepped_until_queued(intake, 30)
    (inbox / "b.yaml").write_text("text: b\n")
    stepped_until_queued(intake, 31)
    (inbox / "a.cancel").touch()
    session.arrivals.cancels.add("a.cancel")

    def cancelled() -> int:
        claims = session.spool.store.state / "claimed"
        return sum(ClaimFolder(claims / job_id).record().is_cancelled for job_id in os.listdir(claims))

    for number in range(1, 30):
        assert (inbox / "a.cancel").exists()
        intake._step_once()
        assert cancelled() == number
    (last,) = (ticket for ticket in session.schedule.named("a") if ticket.priority != URGENT)
    session.schedule.remove(last.job_id)  # it was its turn, and it has ended meanwhile

    def gone() -> bool:
        intake.step()
        return intake.ended

    until(gone, "all are cancelled")
    assert not (inbox / "a.cancel").exists()
    assert cancelled() == 29
    assert {ticket.name for ticket in session.schedule.first(99) if ticket.priority != URGENT} == {"b"}
