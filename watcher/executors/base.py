"""The protocol between the daemon's loop and an executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.errors import Hold, RenderFailed
from jobs.order import Order, Rendering
from watcher.config.settings import Limits


@dataclass(frozen=True, slots=True)
class Progressed:
    """A chunk of an order is finished.

    Attributes:
        done: Finished chunks, including cached ones.
        total: All chunks of the order.
        audio_s: Total length of the finished chunks' audio in seconds.
    """

    job_id: str
    done: int
    total: int
    audio_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Unclear:
    """The executor failed while it had several orders, and nobody knows which one is the cause.

    Attributes:
        reason: A sentence.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An order has ended. Its finished chunks are kept.

    Attributes:
        result: The rendering; RenderFailed if the order failed; Hold if nothing is wrong with the order; Unclear if it
            must be submitted again while the executor has no other. None if it was stopped: by `cancel`, or because
            the executor had to stop for another order.
    """

    job_id: str
    result: Rendering | RenderFailed | Hold | Unclear | None


Event = Progressed | Ended


class Executor(Protocol):
    """Renders orders while the loop runs. No method waits for a render."""

    @property
    def capacity(self) -> int:
        """How many more orders `submit` takes now."""

    @property
    def is_ready(self) -> bool:
        """Whether it has started and can render."""

    @property
    def warm(self) -> tuple[str, str | None] | None:
        """Engine and checkpoint that are loaded; None when none is."""

    def fileno(self) -> int:
        """A descriptor that is readable when there are new events."""

    def configure(self, limits: Limits, idle_s: float) -> None:
        """Use other limits from now on, also for the orders that it has.

        Args:
            idle_s: It frees memory and devices after this many seconds without an order.
        """

    def inherit(self, descriptors: tuple[int, ...]) -> None:
        """Descriptors that paths in orders go through, as `/proc/self/fd/N/…`: open wherever orders are rendered."""

    def expect(self) -> None:
        """Start up, since an order follows soon. Never raises."""

    def submit(self, order: Order) -> None:
        """Take an order. One `Ended` event follows, unless `stop` is called before.

        Raises:
            Hold: The executor can't take it now; nothing is wrong with the order.
        """

    def cancel(self, job_id: str, *, at_once: bool) -> None:
        """Stop an order: at once, or after the chunks that are being rendered; by force after limits.stop_grace_s."""

    def events(self) -> Sequence[Event]:
        """Events since the last call. Also enforces time limits: call it at least every second."""

    def stop(self, *, at_once: bool) -> None:
        """Free memory and devices. Orders that have not ended get no `Ended`. The executor can be used again.

        Args:
            at_once: Kill the worker even if it is idle.
        """
