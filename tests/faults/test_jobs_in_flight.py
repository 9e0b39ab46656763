"""Many jobs in one batch, under the real daemon: who is rendered when, and what one job does to the others."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from jobs.spool.claim import ClaimFolder
from tests.spooling import PATIENCE_S, Spool, until


class Stage:
    """A spool whose engine waits for a gate before each chunk, and writes down each chunk that it begins."""

    def __init__(self, spool: Spool) -> None:
        self.spool, self.journal, self.gate = spool, spool.folder / "journal", spool.folder / "gate"

    def drop(self, name: str, text: str = "One.", *, keys: str = "", **settings: object) -> None:
        given = {"journal": str(self.journal), "gate": str(self.gate), **settings}
        self.spool.drop(f"{name}.yaml", f"text: {text}\nsettings: {json.dumps(given)}\n{keys}")

    def spoken(self) -> list[str]:
        """The chunks that the engine has begun, in order."""
        return [line.partition(" ")[2] for line in self._lines()]

    def workers(self) -> set[str]:
        """The processes that have rendered them."""
        return {line.partition(" ")[0] for line in self._lines()}

    def _lines(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def in_flight(self, *names: str) -> None:
        """Wait until the worker has these jobs."""
        until(
            lambda: {job["name"] for job in self.spool.status().get("running", ())} == set(names),
            lambda: f"{names} are in flight: {self.spool.status().get('running')}",
        )


@pytest.fixture
def stage(spool: Spool) -> Stage:
    return Stage(spool)


def long_text(name: str, sentences: int) -> str:
    return " ".join(f"{name} {number}." for number in range(sentences))


def test_a_short_job_behind_a_long_one_is_rendered_at_once(stage: Stage) -> None:
    """Both have the same priority, and the same worker renders both."""
    stage.spool.start()
    stage.drop("book", long_text("Book", 30))
    until(stage.spoken, "the book is rendered")
    for name in ("b", "c"):
        stage.drop(name, f"{name}.")
    stage.in_flight("book", "b", "c")
    stage.gate.touch()
    stage.spool.result("book")
    assert stage.spoken()[1:3] == ["b.", "c."]
    assert len(stage.workers()) == 1
    assert stage.spool.manifest("b")["timing"]["jobs_in_batch"] > 1


def test_each_job_gets_a_chunk_before_another_gets_two_and_the_older_ends_first(stage: Stage) -> None:
    (stage.spool.inbox / "PAUSE").touch()
    stage.spool.start()
    for name in ("a", "b", "c"):
        stage.drop(name, long_text(name, 3))
    until(lambda: len(stage.spool.status().get("next", ())) == 3, "three jobs are queued")
    (stage.spool.inbox / "PAUSE").unlink()
    stage.in_flight("a", "b", "c")
    stage.gate.touch()
    for name in ("a", "b", "c"):
        stage.spool.result(name)
    rounds = stage.spoken()
    # The engine may have begun the first job before the others were there.
    assert [sorted(rounds[start : start + 3]) for start in (0, 3, 6)] == [
        ["a 0.", "b 0.", "c 0."], ["a 1.", "b 1.", "c 1."], ["a 2.", "b 2.", "c 2."]
    ]  # fmt: skip
    until(lambda: [line["name"] for line in stage.spool.lines("done")] == ["a", "b", "c"], "they end in this order")


def test_an_engine_that_can_not_mix_jobs_gets_one_after_the_other(stage: Stage) -> None:
    stage.spool.start(FAULTY_LONER="yes")
    for name in ("a", "b"):
        stage.drop(name, long_text(name, 3))
    stage.in_flight("a")
    until(lambda: stage.spool.status()["counts"]["queued"] == 1, "the other one waits")
    stage.gate.touch()
    for name in ("a", "b"):
        assert stage.spool.manifest(name)["timing"]["jobs_in_batch"] == 1
    assert stage.spoken() == [f"{name} {number}." for name in "ab" for number in range(3)]


def test_a_more_urgent_job_of_the_same_model_gets_the_next_chunks(stage: Stage) -> None:
    """Also when as many jobs are in flight as may be."""
    stage.spool.config["limits"] = {"jobs_in_flight": 1}
    stage.spool.start()
    stage.drop("book", long_text("Book", 5))
    until(stage.spoken, "the book is rendered")
    stage.drop("urgent", "Now. At once.", keys="priority: 9\n")
    stage.drop("later", "Later.")
    stage.in_flight("book", "urgent")
    stage.gate.touch()
    stage.spool.result("later")
    assert stage.spoken()[1:3] == ["Now.", "At once."]
    assert stage.spoken()[-1] == "Later."


def test_a_more_urgent_job_of_another_model_takes_the_place_of_the_running_ones(stage: Stage) -> None:
    """They go on afterwards, and no finished chunk is rendered twice."""
    stage.spool.start()
    for name in ("a", "b"):
        stage.drop(name, long_text(name, 4))
    stage.in_flight("a", "b")
    until(stage.spoken, "they are rendered")
    stage.spool.drop("urgent.yaml", "text: Now.\nengine: instant\npriority: 9\n")
    until(lambda: len(stage.spool.lines("preempt")) == 2, "both make room")
    stage.gate.touch()
    for name in ("a", "b", "urgent"):
        stage.spool.result(name)
    assert until(lambda: stage.spool.lines("done"), "they are done")[0]["name"] == "urgent"
    assert sorted(stage.spoken()) == sorted(f"{name} {number}." for name in "ab" for number in range(4))


def test_preempt_off_lets_the_running_jobs_end_first(stage: Stage) -> None:
    stage.spool.config["limits"] = {"preempt": False}
    stage.spool.start()
    stage.drop("a", long_text("a", 2))
    until(stage.spoken, "it is rendered")
    stage.spool.drop("urgent.yaml", "text: Now.\nengine: instant\npriority: 9\n")
    until(lambda: stage.spool.status()["counts"]["queued"] == 1, "it waits")
    stage.gate.touch()
    stage.spool.result("urgent")
    until(lambda: [line["name"] for line in stage.spool.lines("done")] == ["a", "urgent"], "in this order")
    assert stage.spool.lines("preempt") == []


def test_a_cancelled_job_leaves_the_others(stage: Stage) -> None:
    stage.spool.start()
    for name in ("a", "b", "c"):
        stage.drop(name, long_text(name, 3))
    stage.in_flight("a", "b", "c")
    (stage.spool.inbox / "b.cancel").touch()
    until(lambda: stage.spool.lines("cancelling"), "it is cancelled")
    stage.gate.touch()
    assert stage.spool.manifest("b.cancelled")["status"] == "cancelled"
    for name in ("a", "c"):
        assert stage.spool.manifest(name)["status"] == "done"
    assert len(stage.workers()) == 1


def test_an_error_of_one_job_leaves_the_others(stage: Stage) -> None:
    """Bad audio, and a time limit of its own."""
    stage.spool.config["limits"] = {"attempts": 1}
    stage.spool.start()
    stage.drop("good", long_text("good", 6))
    stage.drop("bad", "Bad.", fault="nan")
    stage.drop("slow", long_text("slow", 6), keys="timeout_s: 0.2\n", chunk_ms=700)
    stage.in_flight("good", "bad", "slow")
    stage.gate.touch()
    assert stage.spool.manifest("bad.failed")["error"]["code"] == "engine_bad_audio"
    assert stage.spool.manifest("slow.failed")["error"]["code"] == "timeout"
    assert stage.spool.manifest("good")["status"] == "done"
    assert len(stage.workers()) == 1


def test_a_job_that_kills_the_worker_among_many_fails_alone(stage: Stage) -> None:
    """Nobody's attempt counts while several are in flight; then each is rendered alone."""
    names = [f"good-{number:02}" for number in range(60)]
    (stage.spool.inbox / "PAUSE").touch()
    stage.spool.start()
    for name in names[:30]:
        stage.drop(name, long_text(name, 2))
    stage.drop("killer", "Fine. Deadly.", fault="segfault", only="Deadly")
    for name in names[30:]:
        stage.drop(name, long_text(name, 2))
    until(lambda: stage.spool.status()["counts"]["queued"] == 61, "all are queued")
    (stage.spool.inbox / "PAUSE").unlink()
    stage.in_flight("killer", *names)
    stage.gate.touch()
    error = stage.spool.manifest("killer.failed")
    assert (error["attempts"], error["error"]["code"]) == (3, "worker_died")
    for name in names:
        assert stage.spool.manifest(name).get("attempts", 0) <= 1, name
    assert stage.spool.results() == sorted([*names, "killer.failed"])
    assert stage.spoken().count("Deadly.") == 4
    spoken = Counter(text.split()[0] for text in stage.spoken())
    for name in names:  # at most the chunk in flight was rendered twice, and the one that was being saved
        assert 2 <= spoken[name] <= 4


def test_a_mark_to_be_rendered_alone_survives_the_daemon(stage: Stage) -> None:
    stage.spool.start()
    for name in ("a", "b"):
        stage.drop(name, long_text(name, 2))
    stage.in_flight("a", "b")
    os.kill(stage.spool.worker_pid(), signal.SIGKILL)

    def are_marked() -> bool:
        claims = (stage.spool.state / "claimed").iterdir()
        return [ClaimFolder(claim).record().is_alone for claim in claims] == [True, True]

    until(are_marked, "both are marked")
    stage.spool.stop(signal.SIGKILL)
    stage.gate.touch()
    stage.spool.start()
    for name in ("a", "b"):
        assert stage.spool.manifest(name)["timing"]["jobs_in_batch"] == 1


def test_a_stop_puts_all_back_and_renders_no_chunk_twice(stage: Stage) -> None:
    stage.spool.start()
    for name in ("a", "b", "c"):
        stage.drop(name, long_text(name, 3))
    stage.in_flight("a", "b", "c")
    process = stage.spool.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    until(lambda: stage.spool.lines("stopping"), "the daemon stops")
    stage.gate.touch()
    assert process.wait(PATIENCE_S) == 0  # a second signal would not wait for the chunk
    assert stage.spool.results() == []
    stage.spool.start()
    for name in ("a", "b", "c"):
        stage.spool.result(name)
    assert sorted(stage.spoken()) == sorted(f"{name} {number}." for name in "abc" for number in range(3))


def test_the_audio_of_a_job_does_not_depend_on_its_neighbours(spool: Spool, tmp_path: Path) -> None:
    """Bytes of espeak: alone, and with others of all priorities, languages and voices."""
    texts = {f"job-{number:02}": long_text(f"Sentence of {number}, number", 3) for number in range(20)}
    keys = ["", "language: pt-BR", "speaker: f3", "priority: 8", "settings: {speed: 1.3}"]
    spool.config["defaults"] = {"engine": "espeak"}
    alone: dict[str, str] = {}
    for limit in (1, 64):
        spool.config["limits"] = {"jobs_in_flight": limit}
        for number, (name, text) in enumerate(texts.items()):
            spool.drop(f"{name}.yaml", f"text: {text}\n{keys[number % len(keys)]}\n")
        assert spool.once().returncode == 0
        for name in texts:
            digest = json.loads((spool.outbox / name / "manifest.json").read_bytes())["audio"][0]["sha256"]
            assert alone.setdefault(name, digest) == digest
        os.rename(spool.outbox, tmp_path / f"outbox-{limit}")
        spool.outbox.mkdir()
        os.rename(tmp_path / f"outbox-{limit}" / ".voicespool", spool.outbox / ".voicespool")


def test_a_retry_waits_and_others_run_meanwhile(stage: Stage) -> None:
    """`run --once` waits for it."""
    stage.spool.config["limits"] = {"attempts": 2, "retry_delays_s": [1.5]}
    stage.gate.touch()
    stage.drop("a", "Bad.", fault="nan", times=1, counter=str(stage.spool.folder / "counter"))
    stage.drop("b", "Good.")
    assert stage.spool.once().returncode == 0
    manifests = {name: stage.spool.manifest(name) for name in ("a", "b")}
    assert (manifests["a"]["attempts"], manifests["b"]["attempts"]) == (2, 1)
    assert manifests["a"]["timing"]["total_s"] >= 1.5
    assert (stage.spool.outbox / "b").stat().st_ctime_ns < (stage.spool.outbox / "a").stat().st_ctime_ns
