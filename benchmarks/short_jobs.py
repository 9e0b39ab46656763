"""Compares many short jobs with one long job of the same sentences: `make bench-jobs`.

A daemon with a warm model gets, in turn, N jobs of one sentence and one job of N sentences. Ideally both take equally
long: the sentences of all jobs share the engine's batch. The part `urgent` is an urgent job behind a long one. XTTS and
F5 have random weights and full size, so they take as long as real ones. Results go to `benchmarks/results/`,
one file for each device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import f5
import xtts
from comparison import prepare, report
from machine import of_rounds
from tests.spooling import Spool, spooling, until

PATIENCE_S = 7200.0
PARTS = ["espeak", "xtts", "urgent", "f5"]
STEPS = {"cpu": 7, "cuda": 16}
"""Of F5's ODE solver."""


def sentences(count: int) -> list[str]:
    """All different: equal sentences of a job are rendered once."""
    return [f"Number {number}: {xtts.SENTENCES[number % len(xtts.SENTENCES)]}" for number in range(count)]


def measured(spool: Spool, keys: Mapping[str, Any], count: int, rounds: int) -> dict[str, Any]:
    """Seconds of both sides in each round, and the ratio many / one.

    Args:
        keys: Of each job, besides `text`.
        count: Number of sentences.
    """
    spool.start()
    finished(spool, {"warm-up": {**keys, "text": "Good morning."}})
    many_s, one_s = [], []
    for number in range(rounds):
        texts = sentences(count)
        many = {f"{number}-{index}": {**keys, "text": text} for index, text in enumerate(texts)}
        many_s.append(finished(spool, many))
        one_s.append(finished(spool, {f"{number}-all": {**keys, "text": " ".join(texts)}}))
        print(f"{count} jobs: {many_s[-1]:.1f} s, one job: {one_s[-1]:.1f} s", flush=True)
    spool.stop()
    ratios = [many / one for many, one in zip(many_s, one_s, strict=True)]
    return {"jobs": count, "many_s": of_rounds(many_s), "one_s": of_rounds(one_s), "many_by_one": of_rounds(ratios)}


def finished(spool: Spool, jobs: Mapping[str, Mapping[str, Any]]) -> float:
    """Seconds from the moment when all jobs wait in the queue until the last result is published."""
    pause = spool.inbox / "PAUSE"
    pause.touch()
    done = spool.status().get("counts", {}).get("done", 0)
    for name, job in jobs.items():
        spool.drop(f"{name}.json", json.dumps(job))
    until(lambda: spool.status()["counts"]["queued"] == len(jobs), "all are queued", PATIENCE_S)
    pause.unlink()
    started_s = time.perf_counter()
    until(lambda: all(is_done(spool, name) for name in jobs), "all are published", PATIENCE_S)
    seconds = time.perf_counter() - started_s
    until(lambda: spool.status()["counts"]["done"] == done + len(jobs), "all are done", PATIENCE_S)
    return seconds


def is_done(spool: Spool, name: str) -> bool:
    error = spool.outbox / f"{name}.failed" / "ERROR.txt"
    assert not error.exists(), error.read_text()
    return (spool.outbox / name).is_dir()


@contextmanager
def spool_for(folder: Path | None, engine: str, device: str) -> Iterator[Spool]:
    """A spool whose models are in a folder."""
    place, models = Path.cwd(), {"models": str(folder.resolve())} if folder else {}
    config = {"ready": {}, "defaults": {"engine": engine}, "device": {"name": device}, **models}
    with (
        tempfile.TemporaryDirectory(dir=place, prefix=".bench-") as scratch,
        spooling(Path(scratch), **config) as spool,
    ):
        yield spool


def of_espeak(device: str, count: int, rounds: int) -> dict[str, Any]:
    with spool_for(None, "espeak", device) as spool:
        return measured(spool, {"language": "en"}, count, rounds)


def of_xtts(model: Path | None, device: str, count: int, rounds: int) -> dict[str, Any]:
    with xtts.full_size(model) as folder, spool_for(folder.parent, "xtts", device) as spool:
        keys = {"language": "en", "checkpoint": folder.name, "speaker": xtts.SPEAKER}
        return measured(spool, keys, count, rounds)


def of_urgent(model: Path | None, device: str, rounds: int, behind: int = 400) -> dict[str, Any]:
    """Seconds from drop to publication of an urgent job of one sentence: on an idle warm worker, and behind a job of
    `behind` sentences for the same model.
    """
    with xtts.full_size(model) as folder, spool_for(folder.parent, "xtts", device) as spool:
        keys = {"language": "en", "checkpoint": folder.name, "speaker": xtts.SPEAKER}
        text = sentences(1)[0]
        spool.start()
        finished(spool, {"warm-up": {**keys, "text": "Good morning."}})
        idle_s = [published_after(spool, f"idle-{number}", {**keys, "text": text}) for number in range(rounds)]
        spool.drop("book.json", json.dumps({**keys, "text": " ".join(sentences(behind))}))
        behind_s = []
        for number in range(rounds):
            done = chunks_done(spool)
            until(lambda done=done: chunks_done(spool) > done, "the book continues", PATIENCE_S)  # type: ignore[misc]
            behind_s.append(published_after(spool, f"urgent-{number}", {**keys, "text": text, "priority": 9}))
            print(f"idle: {idle_s[number]:.1f} s, behind {behind} sentences: {behind_s[-1]:.1f} s", flush=True)
        spool.stop(signal.SIGKILL)
    ratios = [behind_one / idle for behind_one, idle in zip(behind_s, idle_s, strict=True)]
    return {
        "behind_sentences": behind, "idle_s": of_rounds(idle_s), "behind_s": of_rounds(behind_s),
        "behind_by_idle": of_rounds(ratios),
    }  # fmt: skip


def published_after(spool: Spool, name: str, job: Mapping[str, Any]) -> float:
    started_s = time.perf_counter()
    spool.drop(f"{name}.json", json.dumps(job))
    until(lambda: is_done(spool, name), f"{name} is published", PATIENCE_S)
    return time.perf_counter() - started_s


def chunks_done(spool: Spool) -> int:
    """Finished sentences of the job that is running."""
    return max((int(job.get("chunk", 0)) for job in spool.status().get("running", ())), default=0)


def of_f5(model: Path | None, device: str, count: int, rounds: int) -> dict[str, Any]:
    with f5.full_size(model) as folder, spool_for(folder.parent, "f5", device) as spool:
        voice = spool.inbox / "voice.wav"
        shutil.copytree(folder / "vocos", folder.parent / "vocos-mel-24khz", dirs_exist_ok=True)
        (folder / "model.yaml").write_text("variant: v1\n")  # random weights do not tell
        f5.write_reference(voice)
        voice.with_suffix(".txt").write_text(f5.TRANSCRIPT)
        settings = {"nfe_step": STEPS[device.partition(":")[0]]}
        keys = {"language": "en", "checkpoint": folder.name, "speaker_wav": "voice.wav", "settings": settings}
        return measured(spool, keys, count, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--xtts", type=Path, help="folder of a full-size XTTS model (default: a new one)")
    parser.add_argument("--f5", type=Path, help="folder of a full-size F5 model (default: a new one)")
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    prepare()
    device, count, rounds = arguments.device, arguments.jobs, arguments.rounds
    parts: dict[str, Callable[[], Any]] = {
        "espeak": lambda: of_espeak(device, count, rounds),
        "xtts": lambda: of_xtts(arguments.xtts, device, count, rounds),
        "urgent": lambda: of_urgent(arguments.xtts, device, rounds),
        "f5": lambda: of_f5(arguments.f5, device, count, rounds),
    }
    report("short-jobs", device, parts, arguments.parts)


if __name__ == "__main__":
    main()
