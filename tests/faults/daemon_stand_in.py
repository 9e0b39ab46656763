"""A process with a Worker, in place of the daemon, for tests that kill it or put it into a memory cgroup.

Arguments: a file with the order as JSON, and optionally the folder of a cgroup to enter first. Prints each event as a
line; `worker PID` comes first.
"""

from __future__ import annotations

import select
import sys
from pathlib import Path

import structlog

from watcher.executors.local import messages
from watcher.executors.local.worker import Died, Done, Failed, Worker


def main() -> None:
    order = messages.order_from(messages.message_from(Path(sys.argv[1]).read_bytes()))
    if len(sys.argv) > 2:
        Path(sys.argv[2], "cgroup.procs").write_text("0")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with Worker({}, structlog.get_logger()) as worker:
        worker.submit(order)
        sys.stdout.write(f"worker {worker.pid}\n")
        while True:
            select.select([worker], [], [], 10)
            for event in worker.receive():
                sys.stdout.write(f"{event}\n")
                sys.stdout.flush()
                if isinstance(event, Died | Done | Failed):
                    return


if __name__ == "__main__":
    main()
