"""Measures the overhead of the spool, without the engine: `make bench`.

The engine `instant` of the test plugins renders in no time. The rest is the spool: claim, queue, order to the worker,
files, manifest and publication, with the same fsyncs as for any job. Results go to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from machine import machine

sys.path.insert(0, os.environ.get("SPOOL_ROOT", str(Path(__file__).parents[1])))

from tests.spooling import Spool, spooling, until

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PATIENCE_S = 3600.0
WINDOW = 50  # jobs


@contextmanager
def workplace() -> Iterator[None]:
    """Work in a new folder on the file system of the current one, and remove it at the end.

    Nothing is removed before: ext4 does not reuse an inode within a minute of its removal, and with 100,000 of them
    each new file takes up to twice as long, so one part of the benchmark would slow down the next.
    """
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder, chdir(folder):
        yield


@contextmanager
def fresh(engine: str = "instant", **config: Any) -> Iterator[Spool]:
    """A new spool with the default waits, in the current folder, where it stays. Its daemon is a process of its own, as
    users start it.
    """
    folder = Path(tempfile.mkdtemp(dir=".")).resolve()
    with spooling(folder, ready={}, defaults={"engine": engine}, **config) as spool:
        spool.prefix = ("env",)
        yield spool


def claimed_ns(job_id: str) -> int:
    """The time of the claim, from the job id: Unix time in ns."""
    date_time, _, fraction_ns = job_id.partition("-")[0].partition(".")
    seconds = datetime.strptime(date_time, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return int(seconds.timestamp()) * 10**9 + int(fraction_ns)


def published(spool: Spool) -> list[tuple[float, float]]:
    """For each result, when it was published (Unix time, the folder's ctime) and the seconds in the engine; sorted."""
    results = []
    for path in spool.outbox.glob("*/manifest.json"):
        timing = json.loads(path.read_bytes())["timing"]
        results.append((path.parent.stat().st_ctime_ns / 1e9, timing["synthesis_s"]))
    return sorted(results)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and 95th percentile, three digits."""
    cuts = statistics.quantiles(values, n=20)
    found = {"median": statistics.median(values), "q1": cuts[4], "q3": cuts[14], "p95": cuts[18], "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def from_move_to_claim(moves: int = 200) -> dict[str, float]:
    """Milliseconds from the rename that drops a job file to its claim; one job after another."""
    with fresh() as spool:
        spool.start()
        waits_ms = []
        for number in range(moves):
            dropped_ns = time.time_ns()
            spool.drop(f"move-{number}.yaml")
            manifest = spool.manifest(f"move-{number}")
            waits_ms.append((claimed_ns(manifest["job_id"]) - dropped_ns) / 1e6)
        spool.stop()
    return spread(waits_ms)


def at_rest(seconds: float = 20.0) -> dict[str, float]:
    """Resident memory (MiB) and CPU use (percent of one core) of a daemon with an empty inbox."""
    with fresh() as spool:
        process = psutil.Process(spool.start().pid)
        spool.drop("first.yaml")
        spool.result("first")
        until(lambda: spool.status().get("state") == "idle", "the spool is idle")
        before, started_s = sum(process.cpu_times()[:2]), time.monotonic()
        until(lambda: time.monotonic() - started_s > seconds, "the time is over", PATIENCE_S)
        used_s = sum(process.cpu_times()[:2]) - before
        memory = process.memory_info().rss / 2**20
        spool.stop()
    return {"memory_mib": round(memory, 1), "processor_percent": round(100 * used_s / seconds, 2)}


def backlog(waiting: int, engine: str, results: int | None = None) -> dict[str, Any]:
    """Time to the first result, overhead per job and peak memory, when the daemon starts with a full inbox.

    Args:
        waiting: Number of files in the inbox.
        engine: Engine of the jobs.
        results: Number of results to wait for; None for all.
    """
    with fresh(engine) as spool:
        for number in range(waiting):
            (spool.inbox / f"job-{number}.yaml").write_text(f"text: Good morning, number {number}.\n")
        started_s = time.monotonic()
        process = psutil.Process(spool.start(wait=False).pid)
        until(lambda: any(spool.outbox.glob("*/manifest.json")), "the first result")
        first_s, peak = time.monotonic() - started_s, 0
        while (status := spool.status()).get("counts", {}).get("done", 0) < (results or waiting):
            peak = max(peak, process.memory_info().rss)
            until(lambda before=status: spool.status() != before, "news", PATIENCE_S)  # type: ignore[misc]
        spool.stop()
        published_results = published(spool)
    return {
        "waiting": waiting,
        "first_result_s": round(first_s, 3),
        "overhead_ms": overhead_ms(published_results),
        "memory_peak_mib": round(max(peak, 0) / 2**20, 1),
    }


def overhead_ms(results: list[tuple[float, float]]) -> dict[str, float]:
    """Milliseconds for each job from publication to publication, minus the time in the engine: mean and `spread`.

    The mean is what a job costs. The spread is over windows of `WINDOW` jobs, since several are published at once.
    """

    def cost(part: list[tuple[float, float]]) -> float:
        seconds = part[-1][0] - part[0][0] - sum(own for _, own in part[1:])
        return seconds * 1000 / (len(part) - 1)

    windows = [results[start : start + WINDOW + 1] for start in range(0, len(results) - WINDOW, WINDOW)]
    return {"mean": round(cost(results), 3)} | spread([cost(window) for window in windows])


def engine_busy(jobs: int = 1000, seconds: float = 0.004) -> dict[str, float]:
    """Part of the wall time (percent) in which an engine as fast as a GPU is busy, over many jobs of one sentence.

    Args:
        seconds: That the engine takes for a sentence; the processor is free meanwhile.
    """
    with fresh() as spool:
        spool.config["defaults"]["settings"] = {"seconds": seconds}
        for number in range(jobs):
            (spool.inbox / f"job-{number}.yaml").write_text(f"text: Good morning, number {number}.\n")
        spool.start(wait=False)
        until(lambda: spool.status().get("counts", {}).get("done", 0) >= jobs, "all are published", PATIENCE_S)
        spool.stop()
        results = published(spool)
    wall_s, busy_s = results[-1][0] - results[0][0], sum(own for _, own in results[1:])
    return {"jobs": jobs, "seconds_a_sentence": seconds, "percent": round(100 * busy_s / wall_s, 1)}


def compare(other: Path, rounds: int, engine: str, waiting: int) -> dict[str, Any]:
    """Compare this checkout with another one, alternately.

    Args:
        other: A checkout with its own environment in `.venv`.
        rounds: Number of rounds.
        engine: Engine of the jobs.
        waiting: Number of files in the larger of the two inboxes.

    Returns:
        For each figure the medians, and minimum, median and maximum of the ratio this / other.
    """
    pairs = []
    for number in range(rounds):
        pairs.append((measured(ROOT, engine, waiting), measured(other, engine, waiting)))
        sys.stdout.write(json.dumps({"round": number + 1, "this": pairs[-1][0], "other": pairs[-1][1]}) + "\n")
        sys.stdout.flush()
    report: dict[str, Any] = {"rounds": rounds, "waiting": waiting}
    for name in pairs[0][0]:
        ours, theirs = ([pair[side][name] for pair in pairs] for side in (0, 1))
        ratios = sorted(our / their for our, their in zip(ours, theirs, strict=True))
        report[name] = {
            "this": statistics.median(ours),
            "other": statistics.median(theirs),
            "ratio": [round(ratio, 3) for ratio in (ratios[0], statistics.median(ratios), ratios[-1])],
        }
    return report


def measured(root: Path, engine: str, waiting: int) -> dict[str, float]:
    """The figures of a checkout, measured in its own environment."""
    python, script = root / ".venv/bin/python", ROOT / "benchmarks" / "spool.py"
    command = [str(python), str(script), "--once", "--engine", engine, "--waiting", str(waiting)]
    environment = {**os.environ, "SPOOL_ROOT": str(root), "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def once(engine: str, waiting: int) -> dict[str, float]:
    """The figures by which checkouts are compared."""
    large = backlog(waiting, engine, min(waiting, 1_000))
    return {
        "move_to_claim_ms": from_move_to_claim(100)["median"],
        "overhead_1000_waiting_ms": backlog(1_000, engine)["overhead_ms"]["mean"],
        "overhead_large_inbox_ms": large["overhead_ms"]["mean"],
        "first_result_large_inbox_s": large["first_result_s"],
        "memory_large_inbox_mib": large["memory_peak_mib"],
    }


def draw(curve: list[dict[str, Any]], path: Path) -> None:
    """Plot overhead per job, and memory, over the number of waiting jobs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes = [point["waiting"] for point in curve]
    for quantile, style in (("median", "o-"), ("p95", "s--")):
        left.plot(sizes, [point["overhead_ms"][quantile] for point in curve], style, label=quantile)
    left.set(xscale="log", xlabel="jobs waiting", ylabel="overhead per job (ms)", ylim=(0, None))
    left.axhline(8, color="grey", linewidth=0.8)
    left.legend()
    right.plot(sizes, [point["memory_peak_mib"] for point in curve], "o-")
    right.set(xscale="log", xlabel="jobs waiting", ylabel="daemon's memory (MiB)", ylim=(0, None))
    right.axhline(200, color="grey", linewidth=0.8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="waiting jobs")
    parser.add_argument("--engine", default="instant", help="instant measures only the spool, espeak a real engine")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with another checkout, alternately")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a comparison")
    parser.add_argument("--waiting", type=int, default=100_000, help="files in the larger inbox of a comparison")
    parser.add_argument("--once", action="store_true", help="print the figures of one round of a comparison")
    arguments = parser.parse_args()
    if arguments.once:
        sys.stdout.write(json.dumps(once(arguments.engine, arguments.waiting)) + "\n")
        return
    if arguments.against:
        other = arguments.against.resolve()
        with workplace():
            compared = compare(other, arguments.rounds, arguments.engine, arguments.waiting)
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps({"machine": machine(), "engine": arguments.engine, **compared}, indent=2) + "\n"
        (RESULTS / "spool-before-after.json").write_text(text)
        sys.stdout.write(text)
        return
    report: dict[str, Any] = {"machine": machine(), "engine": arguments.engine}
    with workplace():
        report["move_to_claim_ms"] = from_move_to_claim()
        report["at_rest"] = at_rest()
        report["engine_busy"] = engine_busy()
        report["curve"] = []
        for size in arguments.sizes:
            report["curve"].append(backlog(size, arguments.engine))
            sys.stdout.write(json.dumps(report["curve"][-1]) + "\n")
    first, last = (report["curve"][index]["overhead_ms"]["mean"] for index in (0, -1))
    report["growth"] = round(last / first, 3)
    RESULTS.mkdir(exist_ok=True)
    name = f"spool-{arguments.engine}"
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(report["curve"], RESULTS / f"{name}.png")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
