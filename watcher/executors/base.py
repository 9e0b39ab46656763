"""What the daemon's loop asks of whoever renders orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.errors import Hold, RenderFailed
from jobs.order import Order, Rendering


@dataclass(frozen=True, slots=True)
class Progressed:
    """A chunk of an order is finished.

    Attributes:
        done, total: Chunks that are finished, cached ones included, and that the order has.
    """

    job_id: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The executor is through with an order.

    Attributes:
        result: What was rendered; or why not: the order's own failure, or a hold, which says nothing about the order.
            None: it was stopped as `cancel` asked, and its finished chunks are kept.
    """

    job_id: str
    result: Rendering | RenderFailed | Hold | None


Event = Progressed | Ended


class Executor(Protocol):
    """Renders orders while the loop does other things. No method waits for a render."""

    @property
    def capacity(self) -> int:
        """How many orders `submit` takes now."""

    @property
    def is_ready(self) -> bool:
        """Whether it has shown that it can render."""

    @property
    def warm(self) -> tuple[str, str | None] | None:
        """Engine and checkpoint that are loaded; None when none is."""

    def fileno(self) -> int:
        """A descriptor that is readable when `events` has something new."""

    def expect(self) -> None:
        """An order will come soon: start what takes long. Never raises."""

    def submit(self, order: Order) -> None:
        """Take an order. `Ended` comes for it once, unless `stop` does first.

        Raises:
            Hold: It can't now; nothing is wrong with the order.
        """

    def cancel(self, job_id: str) -> None:
        """Stop an order at the end of the chunk that is being rendered, or after limits.stop_grace_s the hard way."""

    def events(self) -> Sequence[Event]:
        """What has happened since the last call; also enforces time limits. Call it every second or oftener."""

    def stop(self, *, at_once: bool) -> None:
        """Give back memory and devices. Orders that it still has get no `Ended`. It can be used again.

        Args:
            at_once: Do not let anything end by itself.
        """
