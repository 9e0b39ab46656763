"""Words for the cause of a worker's death."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from watcher.executors.local import oom
from watcher.executors.local.messages import Died

CRASHES: Mapping[int, str] = {
    signal.SIGSEGV: "crashed (segmentation fault, SIGSEGV)",
    signal.SIGABRT: "crashed (it aborted, SIGABRT)",
    signal.SIGBUS: "crashed (bus error, SIGBUS)",
    signal.SIGFPE: "crashed (arithmetic error, SIGFPE)",
    signal.SIGILL: "crashed (an instruction that this processor does not have, SIGILL)",
    signal.SIGKILL: "was killed from outside (SIGKILL)",
}


def cause(returncode: int, oom_before: oom.KillCount | None) -> Died:
    """The cause, from the exit status and the kernel's count of processes killed for memory."""
    if returncode >= 0:
        return Died(f"ended by itself with exit code {returncode}")
    known = {number.value: number.name for number in signal.Signals}
    name = known.get(-returncode, f"signal {-returncode}")
    if -returncode == signal.SIGKILL and (now := oom.kill_count()) is not None and now.grew_since(oom_before):
        return Died("was killed by the kernel because memory ran out (SIGKILL)", "worker_oom", name)
    return Died(CRASHES.get(-returncode, f"was ended by {name}"), "worker_died", name)
