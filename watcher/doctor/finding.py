"""What the doctor finds, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        what: What was looked at.
        level: `fail` keeps the spool from working, `warn` does not.
        message: What was found.
        cure: What to do about it; "" when there is nothing to do.
        exit_code: Of a `fail`.
    """

    what: str
    level: Literal["ok", "warn", "fail"]
    message: str
    cure: str = ""
    exit_code: int = 0


def ok(what: str, message: str) -> Finding:
    return Finding(what, "ok", message)


def warn(what: str, message: str, cure: str) -> Finding:
    return Finding(what, "warn", message, cure)


def fail(what: str, message: str, cure: str, exit_code: int = 75) -> Finding:
    return Finding(what, "fail", message, cure, exit_code)
