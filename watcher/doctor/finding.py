"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        what: What was checked.
        level: `fail` keeps the spool from working, `warn` does not.
        message: What was found.
        cure: What to do about it; "" when there is nothing to do.
        exit_code: Of a `fail`.
        group: Title of the group that it is shown in.
    """

    what: str
    level: Literal["ok", "warn", "fail"]
    message: str
    cure: str = ""
    exit_code: int = 0
    group: str = ""


def ok(what: str, message: str) -> Finding:
    return Finding(what, "ok", message)


def warn(what: str, message: str, cure: str) -> Finding:
    return Finding(what, "warn", message, cure)


def fail(what: str, message: str, cure: str, exit_code: int = 75) -> Finding:
    return Finding(what, "fail", message, cure, exit_code)
