"""Kill -9 of daemon and worker at random moments during a stream of jobs: all are published, once and complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.spooling import Spool, below, is_running, spooling, until


@dataclass
class Consumer:
    """Watches the outbox, checks all visible results, and removes every second one at once."""

    spool: Spool
    taken: Path
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    attempts: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        self.taken.mkdir()
        known: set[str] = set()
        while not self.over.wait(0.005):
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(self.spool.outbox):
                    if not entry.name.startswith(".") and entry.name not in known:
                        self.look(Path(entry.path))
                        if not self.take(Path(entry.path)):
                            known.add(entry.name)

    def look(self, folder: Path) -> None:
        self.seen[folder.name] += 1
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            self.attempts += manifest["attempts"]
            for audio in manifest["audio"]:
                data = (folder / audio["file"]).read_bytes()
                assert hashlib.sha256(data).hexdigest() == audio["sha256"]
            assert manifest["audio"]
            assert any(path.suffix == ".yaml" for path in folder.iterdir())
        except (OSError, ValueError, AssertionError) as error:
            self.faults.append(f"{folder.name}: {error!r}")

    def take(self, folder: Path) -> bool:
        if hash(folder.name) % 2:
            return False
        os.rename(folder, self.taken / f"{folder.name}.{self.seen[folder.name]}")
        return True


def campaign(folder: Path, kills: int, seed: int, jobs: int = 3) -> None:
    """Kill something at random moments, `kills` times, with up to `jobs` jobs unfinished; then let the spool finish."""
    chance = random.Random(seed)
    workers: set[int] = set()
    with spooling(folder, limits={"attempts": 1_000_000}) as spool:
        consumer = Consumer(spool, folder / "taken")
        watching = threading.Thread(target=consumer.run)
        watching.start()
        try:
            dropped = stream(consumer, kills, jobs, chance, workers)
            if spool.process is None:
                spool.start()
            until(lambda: len(consumer.seen) >= len(dropped) and not spool.claims(), f"all {len(dropped)} jobs end")
            assert spool.stop() == 0
        finally:
            consumer.over.set()
            watching.join()
        assert consumer.faults == []
        assert consumer.seen == Counter(dropped), "each job is published once"
        assert consumer.attempts <= len(dropped) + kills // 3, "only the kill of a worker counts, and for one job"
        assert spool.results() == sorted(name for name in dropped if hash(name) % 2)
        assert not below(spool.outbox / ".voicespool", "*.wav"), "nothing half-made is left"
        until(lambda: not any(map(is_running, workers)), "no worker outlives its daemon")


def stream(consumer: Consumer, kills: int, jobs: int, chance: random.Random, workers: set[int]) -> list[str]:
    """Kill and restart while jobs are dropped. Returns the names of the jobs."""
    spool, dropped = consumer.spool, list[str]()
    moment = threading.Event()
    for kill in range(kills):
        for _ in range(min(chance.randrange(jobs + 1), jobs - len(dropped) + len(consumer.seen))):
            name = f"job-{len(dropped):04}"
            settings = f"{{chunk_ms: {chance.randrange(20)}}}"
            spool.drop(f"{name}.yaml", f"text: 'One {name}. Two of it. Three of it.'\nsettings: {settings}\n")
            dropped.append(name)
        if spool.process is None:
            spool.start(wait=chance.random() < 0.7)
        moment.wait(chance.uniform(0.0, 0.4))  # a random moment: there is no condition to wait for
        workers |= {int(line["pid"]) for line in spool.lines("worker_started")}
        living = [pid for pid in workers if is_running(pid)]
        if kill % 3 == 2 and living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(living[-1], signal.SIGKILL)
        else:
            spool.stop(signal.SIGKILL)
    return dropped


def test_a_dozen_kills(tmp_path: Path) -> None:
    """A dozen kills of daemon and worker."""
    campaign(tmp_path / "spool", kills=12, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_hundreds_of_kills(tmp_path: Path, seed: int) -> None:
    """Sixty kills in each of six campaigns, with up to forty jobs in flight."""
    campaign(tmp_path / "spool", kills=60, seed=seed, jobs=40)
