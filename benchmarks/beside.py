"""Ours beside the library's, for every engine: both take turns in one run, so that whatever else the machine does slows
both; how much faster is told round by round. `benchmarks/xtts.py` and `benchmarks/f5.py` say what is measured.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import machine, of_rounds

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
RESULTS = Path(__file__).parent / "results"
LIBRARY = "library"


def prepare() -> None:
    """torch and the library as the worker has them."""
    from engines.device import runtime

    warnings.simplefilter("ignore")
    runtime.quiet()
    runtime.prepare_torchaudio()
    import torch

    torch.set_num_threads(runtime.threads())


def precisions(device: str) -> list[str]:
    """What ours is measured in."""
    from engines.device import runtime

    return ["float32", *(["bfloat16"] if runtime.fast_bfloat16(device) else [])]


def in_turn(
    sides: Mapping[str, Callable[[], Any]], rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Let each side do its work, again and again: seconds of each round, and what came of the last."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    made: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in sides.items():
            seconds[name].append(_timed(lambda: made.update({name: work()}), device))  # noqa: B023 - runs at once
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    return seconds, made


def times(library: Iterable[float], own: Iterable[float]) -> dict[str, Any]:
    """How many times as fast ours is, round by round."""
    return of_rounds([theirs / ours for theirs, ours in zip(library, own, strict=True)])


def in_processes(script: str, folder: Path, device: str, rounds: int) -> dict[str, list[Any]]:
    """What `SCRIPT --load-once SIDE` prints in processes of its own, the sides taking turns."""
    runs: dict[str, list[Any]] = {name: [] for name in (LIBRARY, *precisions(device))}
    for _ in range(rounds):
        for name, done in runs.items():
            done.append(in_process(script, folder, device, "--load-once", name))
            print(f"load {name}: {done[-1]}", flush=True)
    return runs


def in_process(script: str, folder: Path, device: str, *arguments: str) -> Any:
    """What a script prints last with these arguments, in a process of its own."""
    command = [sys.executable, script, "--device", device, "--model", str(folder), *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(printed.splitlines()[-1])


def profiled(work: Callable[[], Any], device: str) -> dict[str, Any]:
    """The operations of a processor or the kernels of a card that take most of the time, and how long it is busy; once
    for warmth, once for this.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    work()
    on_gpu = device != "cpu"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        wall_s = _timed(work, device)
    own: Counter[str] = Counter()
    for event in seen.key_averages():
        if (event.device_type.name == "CUDA") == on_gpu and event.key != "Command Buffer Full":
            own[kernel_name(event.key)] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
    total = own.total()
    return {
        "wall_s": round(wall_s, 3),
        "busy_s": round(total, 3),
        "share": {name: round(seconds / total, 3) for name, seconds in own.most_common(12)},
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
    }


def kernel_name(kernel: str) -> str:
    """Without what stands before the part that tells it from others; 80 characters at most."""
    return re.sub(r"void |at::native::|\(anonymous namespace\)::|gpu_kernel_impl(_nocast)?<", "", kernel)[:80]


def _timed(work: Callable[[], Any], device: str) -> float:
    import torch

    started_s = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def report(name: str, device: str, parts: Mapping[str, Callable[[], Any]], wanted: Sequence[str]) -> None:
    """Measure the parts wanted, and write them to the results, each with where it was measured; other parts stay."""
    import torch

    on: dict[str, Any] = {"machine": machine(), "torch": torch.__version__}
    if device != "cpu":
        on["machine"]["card"] = torch.cuda.get_device_name(device)
    told = {part: {**parts[part](), "measured_on": on} for part in wanted}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{device.partition(':')[0]}.json"
    before = json.loads(path.read_bytes()) if path.exists() and len(wanted) < len(parts) else {}
    path.write_text(json.dumps(before | told, indent=2) + "\n")
    print(json.dumps(told, indent=2))
