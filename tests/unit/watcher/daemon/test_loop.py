"""What the daemon does in the middle of a job, without a worker."""

from __future__ import annotations

from typing import cast

import pytest

from jobs.errors import InboxGone
from watcher.daemon.loop import Daemon
from watcher.daemon.session import Session


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
