"""Messages between the daemon and its worker: one JSON object per line on a socket.

    daemon -> worker    order, stop, end
    worker -> daemon    ready, loaded, started, progress, done, failed, stopped, unclear

The worker runs code from outside (engines, models), so the daemon validates its messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from files.printable import printable
from jobs.order import Order, Rendering

MAX_MESSAGE_BYTES = 32 << 20
"""Far above a `Rendering` of the largest job file."""


class InvalidMessage(Exception):
    """Bytes that are not a message of this protocol."""


_STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")
"""No conversions between types; unknown keys are ignored."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has imported what every order needs, and takes orders. Sent once, before all else."""

    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine is loaded for the order.

    Attributes:
        load_s: Loading time in seconds; 0.0 if it was loaded before.
    """

    __pydantic_config__ = _STRICT
    job_id: str
    load_s: float
    kind: Literal["loaded"] = "loaded"


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has got the first chunk of the order."""

    __pydantic_config__ = _STRICT
    job_id: str
    kind: Literal["started"] = "started"


@dataclass(frozen=True, slots=True)
class Progress:
    """A chunk is finished, or the engine gave a sign of life.

    Attributes:
        done: Finished chunks, including cached ones.
        total: All chunks of the order.
        audio_s: Total length of the finished chunks' audio in seconds.
    """

    __pydantic_config__ = _STRICT
    job_id: str
    done: int
    total: int
    audio_s: float
    kind: Literal["progress"] = "progress"


@dataclass(frozen=True, slots=True)
class Done:
    """The order is finished; its files are in its `result_dir`."""

    __pydantic_config__ = _STRICT
    job_id: str
    rendering: Rendering
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """The order failed; the worker is still alive.

    Attributes:
        code: For the manifest. `hold` means that nothing is wrong with the job: a disk is full or gone.
        message, hint: What happened and what to do about it; printable.
        retryable: Whether a retry makes sense.
        broken: The engine itself failed, not one chunk: it may be in a bad state.
    """

    __pydantic_config__ = _STRICT
    job_id: str
    code: str
    message: str
    hint: str
    retryable: bool
    broken: bool = False
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Stopped:
    """The order was stopped at the end of a chunk; its finished chunks are kept."""

    __pydantic_config__ = _STRICT
    job_id: str
    kind: Literal["stopped"] = "stopped"


@dataclass(frozen=True, slots=True)
class Unclear:
    """The engine failed with chunks of several orders. All orders of the worker have ended.

    Attributes:
        message: What happened; printable.
    """

    __pydantic_config__ = _STRICT
    job_id: str
    message: str
    kind: Literal["unclear"] = "unclear"


@dataclass(frozen=True, slots=True)
class Died:
    """The worker and all its processes are gone. Created in the daemon, never sent.

    Attributes:
        reason: Continues "The worker …": `crashed (segmentation fault, SIGSEGV)`.
        code: For the manifest: `worker_oom` if the kernel killed it for memory, else `worker_died`.
        signal: `SIGSEGV`, or None if no signal ended it.
        was_ready: Whether it was ready for orders. If not, no job is the cause.
        last_line: The last line it printed, printable; "" if none.
    """

    reason: str
    code: str = "worker_died"
    signal: str | None = None
    was_ready: bool = True
    last_line: str = ""


Message = Ready | Loaded | Started | Progress | Done | Failed | Stopped | Unclear
"""Sent by the worker."""
Event = Message | Died
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def order_line(order: Order) -> bytes:
    """NaN and infinity are allowed, since a job's metadata may have them."""
    return _line({"kind": "order", **order.packed()}, allow_nan=True)


def stop_line(job_id: str, *, at_once: bool) -> bytes:
    """Stop an order: at once, or when its chunks that the engine has are finished."""
    return _line({"kind": "stop", "job_id": job_id, "at_once": at_once})


def end_line() -> bytes:
    return _line({"kind": "end"})


def event_line(event: Message) -> bytes:
    """Raises ValueError for NaN and infinity."""
    return _line(asdict(event))


def _line(message: Mapping[str, Any], *, allow_nan: bool = False) -> bytes:
    return json.dumps(message, allow_nan=allow_nan, separators=(",", ":")).encode() + b"\n"


def order_from(message: Mapping[str, Any]) -> Order:
    """Raises KeyError when it is no order."""
    return Order.unpacked(message)


def message_from(line: bytes) -> dict[str, Any]:
    """Parse one line from the daemon. Raises InvalidMessage."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"not JSON: {printable(line[:60].decode('utf-8', 'replace'))}") from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise InvalidMessage(f"not a message: {printable(line[:60].decode('utf-8', 'replace'))}")
    return message


def event_from(line: bytes) -> Message:
    """Parse and validate one line from the worker. Raises InvalidMessage."""
    try:
        message = _MESSAGES.validate_json(line)
        from_json(line, allow_inf_nan=False)  # rejects NaN in unknown keys too
    except ValueError as error:
        why = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        start = line[:60].decode("utf-8", "replace")
        raise InvalidMessage(f"not a message: {printable(start)}; {printable(why, 200)}") from error
    if isinstance(message, Unclear):
        return Unclear(message.job_id, printable(message.message))
    if isinstance(message, Failed):
        words = printable(message.code), printable(message.message), printable(message.hint)
        return Failed(message.job_id, *words, message.retryable, message.broken)
    if isinstance(message, Done):
        for name in message.rendering.files:
            if "/" in name or "\0" in name or name in {"", ".", ".."}:
                raise InvalidMessage(f"a file that is not in the result's folder, {printable(name, 60)!r}")
    return message
