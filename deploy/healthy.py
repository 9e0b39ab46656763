"""Say whether the spool is well, from `voicespool status --json` on standard input: exit 0 or 1, and why.

Well means: a daemon has the inbox, it wrote its status lately (it does every 30 s, at rest too), and it is
not on hold.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

OLDEST_S = 120


def complaint(status: dict[str, Any], now: datetime) -> str | None:
    """What is wrong, in words; None when all is well."""
    if not status.get("daemon", {}).get("running"):
        return "no daemon has this inbox"
    age_s = (now - datetime.fromisoformat(status["updated_at"])).total_seconds()
    if age_s > OLDEST_S:
        return f"the daemon has not written its status for {age_s:.0f} s"
    if status["state"] == "hold":
        return "on hold: " + "; ".join(hold["reason"] for hold in status["holds"])
    return None


def main() -> int:
    try:
        wrong = complaint(json.load(sys.stdin), datetime.now(UTC))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wrong = f"the status can't be read: {error!r}"
    sys.stdout.write(f"{wrong or 'well'}\n")
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main())
