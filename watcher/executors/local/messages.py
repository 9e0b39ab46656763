"""What the daemon and its worker say to each other: one JSON object a line, on a socket of their own.

    daemon -> worker    order, stop, end
    worker -> daemon    ready, loaded, progress, done, failed, stopped

The worker runs code from outside (engines, models), so what comes from it is checked before it is believed:
anything that is not one of these messages is a `NotAMessage`.
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
"""Far above a `Rendering` of the largest job file; what is longer is not one of ours."""


class NotAMessage(Exception):
    """Bytes that are not what the other side says when it is well."""


_STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")
"""A number is a number; what a newer writer added is left aside."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has imported what every order needs and takes the first one. Sent once, before all else."""

    say: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine is ready for the order.

    Attributes:
        load_s: What loading took; 0.0 when it was warm.
    """

    __pydantic_config__ = _STRICT
    job_id: str
    load_s: float
    say: Literal["loaded"] = "loaded"


@dataclass(frozen=True, slots=True)
class Progress:
    """A chunk is finished, or the engine gave a sign of life.

    Attributes:
        done, total: Chunks that are finished, cached ones included, and that the order has.
        audio_s: Length of the finished chunks' audio together.
    """

    __pydantic_config__ = _STRICT
    job_id: str
    done: int
    total: int
    audio_s: float
    say: Literal["progress"] = "progress"


@dataclass(frozen=True, slots=True)
class Done:
    """The order's files are in its `result_dir`."""

    __pydantic_config__ = _STRICT
    job_id: str
    rendering: Rendering
    say: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """The order failed, the worker lives.

    Attributes:
        code: For the manifest. `hold` means that nothing is wrong with the job: a disk is full or gone.
        message, hint: What happened and what to do about it; safe to print.
        retryable: Whether a fresh worker is worth a try. If so, this one may be in disorder: end it.
    """

    __pydantic_config__ = _STRICT
    job_id: str
    code: str
    message: str
    hint: str
    retryable: bool
    say: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Stopped:
    """The order was stopped at the end of a chunk, as asked; its finished chunks are kept."""

    __pydantic_config__ = _STRICT
    job_id: str
    say: Literal["stopped"] = "stopped"


@dataclass(frozen=True, slots=True)
class Died:
    """The worker is gone, and everything it had started. Made by the daemon's side.

    Attributes:
        reason: Continues "The worker …": `crashed (segmentation fault, SIGSEGV)`.
        code: For the manifest: `worker_oom` when the kernel ended it for memory, else `worker_died`.
        signal: `SIGSEGV`, or None when no signal ended it.
        was_ready: Whether it ever took orders. If not, no job is to blame.
        last_line: What it printed last, printable; "" when it printed nothing.
    """

    reason: str
    code: str = "worker_died"
    signal: str | None = None
    was_ready: bool = True
    last_line: str = ""


Message = Ready | Loaded | Progress | Done | Failed | Stopped
"""What the worker sends."""
Event = Message | Died
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="say")])


def order_line(order: Order) -> bytes:
    """A job's metadata may hold what JSON proper can't, infinity and NaN: between us two they pass."""
    return _line({"say": "order", **order.packed()}, allow_nan=True)


def stop_line(job_id: str) -> bytes:
    """Names the job, so that a stop that comes late can't hit the next one."""
    return _line({"say": "stop", "job_id": job_id})


def end_line() -> bytes:
    return _line({"say": "end"})


def event_line(event: Message) -> bytes:
    """Raises ValueError for what JSON can't hold: NaN, infinity."""
    return _line(asdict(event))


def _line(message: Mapping[str, Any], *, allow_nan: bool = False) -> bytes:
    return json.dumps(message, allow_nan=allow_nan, separators=(",", ":")).encode() + b"\n"


def order_from(message: Mapping[str, Any]) -> Order:
    """Raises KeyError when it is none; it comes from our own daemon."""
    return Order.unpacked(message)


def message_from(line: bytes) -> dict[str, Any]:
    """Read one line. Raises NotAMessage."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotAMessage(f"not JSON: {printable(line[:60].decode('utf-8', 'replace'))}") from error
    if not isinstance(message, dict) or not isinstance(message.get("say"), str):
        raise NotAMessage(f"not a message: {printable(line[:60].decode('utf-8', 'replace'))}")
    return message


def event_from(line: bytes) -> Message:
    """Read what a worker sends. Raises NotAMessage."""
    try:
        message = _MESSAGES.validate_json(line)
        from_json(line, allow_inf_nan=False)  # also in what no model looks into
    except ValueError as error:
        why = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        start = line[:60].decode("utf-8", "replace")
        raise NotAMessage(f"not a message: {printable(start)}; {printable(why, 200)}") from error
    if isinstance(message, Failed):
        words = printable(message.code), printable(message.message), printable(message.hint)
        return Failed(message.job_id, *words, message.retryable)
    if isinstance(message, Done):
        for name in message.rendering.files:
            if "/" in name or "\0" in name or name in {"", ".", ".."}:
                raise NotAMessage(f"a file that is not in the result's folder, {printable(name, 60)!r}")
    return message
