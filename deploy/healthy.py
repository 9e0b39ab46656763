"""Health check: reads `voicespool status --json` from standard input, prints the reason, exits with 0 (healthy) or 1.

Healthy means: a daemon serves the inbox, it wrote its status in the last 120 s (it does so every 30 s, also when
idle), and it is not on hold.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

OLDEST_S = 120


def complaint(status: dict[str, Any], now: datetime) -> str | None:
    """What is wrong, as a sentence; None if the spool is healthy."""
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
    sys.stdout.write(f"{wrong or 'healthy'}\n")
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main())
