"""What the daemon and its worker say to each other: one JSON object a line, on a socket of their own.

    daemon -> worker    order, stop, end
    worker -> daemon    ready, loaded, progress, done, failed, stopped

The worker runs code from outside (engines, models), so what comes from it is checked before it is believed:
anything that is not exactly one of these messages is a `NotAMessage`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from files.printable import printable
from jobs.order import Order, Progress, Rendering

MAX_MESSAGE_BYTES = 32 << 20
"""Far above a `Rendering` of the largest job file; what is longer is not one of ours."""


class NotAMessage(Exception):
    """Bytes that are not what the other side says when it is well."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has imported what every order needs and takes the first one. Said once, before all else."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The engine is ready for the order.

    Attributes:
        load_s: What loading took; 0.0 when it was warm.
    """

    load_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """The order's files are in its `result_dir`."""

    rendering: Rendering


@dataclass(frozen=True, slots=True)
class Failed:
    """The order failed, the worker lives.

    Attributes:
        code: For the manifest. `hold` means that nothing is wrong with the job: a disk is full or gone.
        message, hint: What happened and what to do about it; safe to print.
        retryable: Whether a fresh worker is worth a try. If so, this one may be in disorder: end it.
    """

    code: str
    message: str
    hint: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Stopped:
    """The order was stopped at the end of a chunk, as asked; its finished chunks are kept."""


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


Said = Ready | Loaded | Progress | Done | Failed | Stopped
Event = Said | Died


def order_line(order: Order) -> bytes:
    """A job's metadata may hold what JSON proper can't, infinity and NaN: between us two they pass."""
    return _line({"say": "order", **order.packed()}, allow_nan=True)


def stop_line(job_id: str) -> bytes:
    """Names the job, so that a stop that comes late can't hit the next one."""
    return _line({"say": "stop", "job_id": job_id})


def end_line() -> bytes:
    return _line({"say": "end"})


def event_line(event: Said) -> bytes:
    """Raises ValueError for what JSON can't hold: NaN, infinity."""
    said = asdict(event.rendering) if isinstance(event, Done) else asdict(event)
    return _line({"say": type(event).__name__.lower(), **said})


def _line(message: Mapping[str, Any], *, allow_nan: bool = False) -> bytes:
    return json.dumps(message, allow_nan=allow_nan, separators=(",", ":")).encode() + b"\n"


def order_from(message: Mapping[str, Any]) -> Order:
    """Raises KeyError when it is none; it comes from our own daemon."""
    return Order.unpacked(message)


def message_from(line: bytes, parse_constant: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Read one line. Raises NotAMessage."""
    try:
        message = json.loads(line, parse_constant=parse_constant)
    except (ValueError, RecursionError) as error:
        raise NotAMessage(f"not JSON: {printable(line[:60].decode('utf-8', 'replace'))}") from error
    if not isinstance(message, dict) or not isinstance(message.get("say"), str):
        raise NotAMessage(f"not a message: {printable(line[:60].decode('utf-8', 'replace'))}")
    return message


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def event_from(line: bytes) -> Said:
    """Read what a worker says. Raises NotAMessage."""
    message = message_from(line, _refuse)
    said = message.pop("say")
    expected = _SHAPES.get(said)
    if expected is None or message.keys() != expected.keys():
        raise NotAMessage(f"an unknown message, {printable(said, 60)!r}")
    for key, kind in expected.items():
        if not isinstance(message[key], kind) or isinstance(message[key], bool) is not (kind is bool):
            raise NotAMessage(f"{printable(said, 60)}.{key} is a {type(message[key]).__name__}")
    event: Said = _EVENTS[said](message)
    return event


_NUMBER = (int, float)
_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "ready": {},
    "loaded": {"load_s": _NUMBER},
    "progress": {"done": int, "total": int, "audio_s": _NUMBER},
    "failed": {"code": str, "message": str, "hint": str, "retryable": bool},
    "stopped": {},
    "done": {
        "files": list,
        "engine": dict,
        "voice": dict,
        "audio": list,
        "segments": list,
        "checks": dict,
        "timing": dict,
        "warnings": list,
        "chunks": list,
        "chunks_file": str,
    },
}


def _failed(message: dict[str, Any]) -> Failed:
    shown = {key: printable(message[key]) for key in ("code", "message", "hint")}
    return Failed(**shown, retryable=message["retryable"])


def _done(message: dict[str, Any]) -> Done:
    for name in message["files"]:
        if not isinstance(name, str) or "/" in name or "\0" in name or name in {"", ".", ".."}:
            raise NotAMessage(f"a file that is not in the result's folder, {printable(name, 60)!r}")
    lists = {key: tuple(message[key]) for key in ("files", "audio", "segments", "warnings", "chunks")}
    return Done(Rendering(**{**message, **lists}))


_EVENTS: Mapping[str, Any] = {
    "ready": lambda message: Ready(**message),
    "loaded": lambda message: Loaded(**message),
    "progress": lambda message: Progress(**message),
    "failed": _failed,
    "stopped": lambda message: Stopped(**message),
    "done": _done,
}
