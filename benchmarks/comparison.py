"""Comparison of our engines with the libraries, for `benchmarks/xtts.py` and `benchmarks/f5.py`.

Both sides alternate in one run, so that other load on the machine slows both. Speed-ups are computed for each round.
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
    """Set up torch and the library as the worker does."""
    from engines.device import runtime

    warnings.simplefilter("ignore")
    runtime.quiet()
    runtime.prepare_torchaudio()
    import torch

    torch.set_num_threads(runtime.threads())


def precisions(device: str) -> list[str]:
    """Precisions in which our side is measured."""
    from engines.device import runtime

    return ["float32", *(["bfloat16"] if runtime.fast_bfloat16(device) else [])]


def in_turn(
    sides: Mapping[str, Callable[[], Any]], rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run the sides alternately.

    Returns:
        Seconds of each round, and the results of the last round, by side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in sides.items():
            seconds[name].append(_timed(lambda: results.update({name: work()}), device))  # noqa: B023 - runs at once
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    return seconds, results


def speed_ups(library: Iterable[float], own: Iterable[float]) -> dict[str, Any]:
    """How many times as fast our side is, in each round."""
    return of_rounds([theirs / ours for theirs, ours in zip(library, own, strict=True)])


def in_processes(script: str, folder: Path, device: str, rounds: int) -> dict[str, list[Any]]:
    """Run `SCRIPT --load-once SIDE` in new processes, alternately; the JSON that they print, by side."""
    runs: dict[str, list[Any]] = {name: [] for name in (LIBRARY, *precisions(device))}
    for _ in range(rounds):
        for name, printed in runs.items():
            printed.append(in_process(script, folder, device, "--load-once", name))
            print(f"load {name}: {printed[-1]}", flush=True)
    return runs


def in_process(script: str, folder: Path, device: str, *arguments: str) -> Any:
    """Run a script in a new process; the JSON in the last line that it prints."""
    command = [sys.executable, script, "--device", device, "--model", str(folder), *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(printed.splitlines()[-1])


def profiled(work: Callable[[], Any], device: str) -> dict[str, Any]:
    """Profile `work` after a warm-up run: the CPU operations or GPU kernels that take most time, and their total."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    work()
    on_gpu = device != "cpu"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        wall_s = _timed(work, device)
    busy_s: Counter[str] = Counter()
    for event in profiler.key_averages():
        if (event.device_type.name == "CUDA") == on_gpu and event.key != "Command Buffer Full":
            time_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            busy_s[kernel_name(event.key)] += time_us / 1e6
    total = busy_s.total()
    return {
        "wall_s": round(wall_s, 3),
        "busy_s": round(total, 3),
        "share": {name: round(seconds / total, 3) for name, seconds in busy_s.most_common(12)},
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
    }


def kernel_name(kernel: str) -> str:
    """The name of a kernel without prefixes that many share; at most 80 characters."""
    return re.sub(r"void |at::native::|\(anonymous namespace\)::|gpu_kernel_impl(_nocast)?<", "", kernel)[:80]


def _timed(work: Callable[[], Any], device: str) -> float:
    import torch

    started_s = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def report(name: str, device: str, parts: Mapping[str, Callable[[], Any]], wanted: Sequence[str]) -> None:
    """Measure the wanted parts and write them to the results file, each with its machine. Other parts stay in it."""
    import torch

    on: dict[str, Any] = {"machine": machine(), "torch": torch.__version__}
    if device != "cpu":
        on["machine"]["gpu"] = torch.cuda.get_device_name(device)
    results = {part: {**parts[part](), "measured_on": on} for part in wanted}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{device.partition(':')[0]}.json"
    before = json.loads(path.read_bytes()) if path.exists() and len(wanted) < len(parts) else {}
    path.write_text(json.dumps(before | results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
