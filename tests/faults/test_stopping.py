"""How the daemon ends: signals, `--once`, the idle worker, and notifications to systemd."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.spooling import Spool, is_running, until


def with_settings(**settings: object) -> str:
    return f"text: One. Two. Three.\nsettings: {json.dumps(settings, default=str)}\n"


def chunks_begun(journal: Path) -> list[str]:
    return [line.partition(" ")[2] for line in journal.read_text().splitlines()] if journal.exists() else []


def signalled(spool: Spool, number: int) -> None:
    assert spool.process is not None
    spool.process.send_signal(number)


# SIGTERM and SIGINT.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_chunk_finish_puts_the_job_back_and_ends_well(spool: Spool, number: int) -> None:
    """Exit code 0, no attempt counted, and the next daemon renders only what is missing."""
    gate, journal = spool.folder / "gate", spool.folder / "journal"
    spool.drop("a.yaml", with_settings(gate=gate, journal=journal))
    spool.start()
    until(lambda: chunks_begun(journal), "the first chunk begins")
    worker = spool.worker_pid()
    signalled(spool, number)
    until(lambda: spool.lines("stopping"), "it says that it stops after the chunk")
    gate.touch()
    assert spool.process is not None
    assert spool.process.wait(60) == 0
    assert chunks_begun(journal) == ["One."]
    assert spool.results() == []
    assert len(spool.claims()) == 1
    assert spool.lines("put_back")
    assert spool.status()["state"] == "stopped"
    assert not is_running(worker)
    assert spool.once().returncode == 0
    assert chunks_begun(journal) == ["One.", "Two.", "Three."]
    assert spool.manifest("a")["attempts"] == 1


def test_a_second_signal_does_not_wait_for_the_chunk(spool: Spool) -> None:
    journal = spool.folder / "journal"
    spool.drop("a.yaml", with_settings(fault="hang", journal=journal))
    spool.start()
    until(lambda: chunks_begun(journal), "the chunk begins")
    worker = spool.worker_pid()
    signalled(spool, signal.SIGTERM)
    until(lambda: spool.lines("stopping"), "the first signal is handled")
    assert spool.stop() == 0
    assert not is_running(worker)
    assert len(spool.claims()) == 1


def test_a_chunk_that_outlasts_the_grace_is_cut_off(spool: Spool) -> None:
    """After `stop_grace_s` the worker is killed and the job is put back, with one signal."""
    journal = spool.folder / "journal"
    spool.config["limits"] = {"stop_grace_s": 0.2}
    spool.drop("a.yaml", with_settings(fault="hang_deaf", journal=journal))
    spool.start()
    until(lambda: chunks_begun(journal), "the chunk begins")
    worker = spool.worker_pid()
    assert spool.stop() == 0
    assert not is_running(worker)
    assert len(spool.claims()) == 1
    assert spool.results() == []


def test_a_stop_that_ends_in_a_kill_in_the_middle_of_a_chunk_loses_nothing(spool: Spool) -> None:
    """TERM, and later KILL, as systemd and Docker do. The next daemon has the finished chunks."""
    journal = spool.folder / "journal"
    once_only = {"only": "Two", "times": 1, "counter": spool.folder / "counter"}
    spool.drop("a.yaml", with_settings(fault="hang_with_child", journal=journal, **once_only))
    process = spool.start()
    until(lambda: chunks_begun(journal)[2:], "the second chunk is being rendered, with its own process")
    worker = spool.worker_pid()
    signalled(spool, signal.SIGTERM)
    until(lambda: spool.status()["state"] == "stopping", "the daemon waits for the chunk")
    assert spool.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not processes_of(process.pid, worker), "the worker is gone, and all that it started")
    assert spool.results() == []
    assert len(spool.claims()) == 1
    assert spool.once().returncode == 0
    assert chunks_begun(journal) == ["One.", "Two.", "child", "Two.", "Three."]
    assert spool.manifest("a")["attempts"] == 1
    assert spool.results() == ["a"]


def test_a_daemon_that_waits_for_a_chunk_to_stop_sleeps(spool: Spool) -> None:
    """Also when a wrong file comes, which this daemon does not publish any more: the next one does."""
    gate, journal = spool.folder / "gate", spool.folder / "journal"
    spool.drop("a.yaml", with_settings(gate=gate, journal=journal))
    spool.start()
    until(lambda: chunks_begun(journal), "the first chunk begins")
    signalled(spool, signal.SIGTERM)
    until(lambda: spool.lines("stopping"), "it waits for the chunk")
    spool.drop("wrong.yaml", "txt: wrong key\n")
    until(lambda: len(spool.lines("claim")) == 2, "the wrong file is claimed")
    assert spool.process is not None
    process, seconds = psutil.Process(spool.process.pid), time.monotonic() + 2
    before_s = sum(process.cpu_times()[:2])
    until(lambda: time.monotonic() > seconds, "two seconds are over")
    assert sum(process.cpu_times()[:2]) - before_s < 0.2
    gate.touch()
    assert spool.process.wait(60) == 0
    assert spool.once().returncode == 1
    assert spool.results() == ["a", "wrong.failed"]


# SIGHUP.


def test_sighup_takes_over_a_good_configuration_and_keeps_the_old_one_against_a_bad_one(spool: Spool) -> None:
    gate = spool.folder / "gate"
    spool.drop("running.yaml", with_settings(gate=gate))
    spool.start()
    until(lambda: spool.lines("render"), "a job runs meanwhile")
    spool.config["defaults"] = {"engine": "faulty", "language": "pt"}
    spool.config["results"] = {"on_existing": "replace"}
    spool.write_config()
    signalled(spool, signal.SIGHUP)
    until(lambda: len(spool.lines("reload")) == 1, "it is read again")
    spool.config_file.write_text("defaults: {language: de}\ninbx: elsewhere\n")
    signalled(spool, signal.SIGHUP)
    until(lambda: len(spool.lines("reload")) == 2, "the wrong configuration is reported")
    assert "inbx" in spool.lines("reload")[1]["reason"]
    assert "inbox" in spool.lines("reload")[1]["reason"]
    gate.touch()
    assert spool.manifest("running")["status"] == "done"
    spool.drop("after.yaml")
    assert spool.manifest("after")["request"]["language"] == "pt"
    first = spool.manifest("after")["job_id"]
    spool.drop("after.yaml")
    until(lambda: len(spool.lines("done")) == 3, "the third job is done")
    assert spool.results() == ["after", "running"]
    assert spool.manifest("after")["job_id"] != first
    assert spool.stop() == 0


# Runs that end by themselves.


def test_a_passing_run_leaves_what_can_not_be_rendered_now_and_says_by_its_exit_code_how_it_went(spool: Spool) -> None:
    """Neither run waits for empty, foreign and later files; only `--once` exits with 1 for a failed job."""
    (spool.inbox / "empty.yaml").touch()
    (spool.inbox / "notes.txt").write_text("not a job")
    spool.drop("later.yaml", "text: Later.\nnot_before: 2099-01-01T00:00:00Z\n")
    spool.drop("good.yaml")
    assert spool.once().returncode == 0
    assert spool.results() == ["good"]
    spool.drop("bad.yaml", "txt: wrong key\n")
    assert spool.once().returncode == 1
    spool.drop("bad2.yaml", "txt: wrong key\n")
    assert spool.command("run", "--until-idle").returncode == 0
    assert spool.results() == ["bad.failed", "bad2.failed", "good"]
    (spool.inbox / "PAUSE").touch()
    spool.drop("paused.yaml")
    assert spool.once().returncode == 0
    assert len(spool.claims()) == 2
    (spool.inbox / "PAUSE").unlink()
    assert spool.once().returncode == 0
    assert spool.results() == ["bad.failed", "bad2.failed", "good", "paused"]
    assert (spool.inbox / "empty.yaml").exists()


def test_once_waits_for_a_file_that_is_still_being_written(spool: Spool) -> None:
    """Files that become ready during the run are rendered."""
    with (spool.inbox / "a.yaml").open("w") as file:
        file.write("text: One.")
        file.flush()
        spool.start("--once")
        until(lambda: spool.status()["waiting"], "the file waits")
        file.write(" Two.\n")
    assert spool.process is not None
    assert spool.process.wait(60) == 0
    assert spool.manifest("a")["request"]["text"] == "One. Two."


@pytest.mark.parametrize("how", ["--once", "--until-idle"])
def test_a_passing_run_on_a_hold_exits_75_with_the_reason(spool: Spool, how: str) -> None:
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    (spool.outbox / ".voicespool" / "id").write_text("another\n")
    spool.drop("b.yaml")
    ended = spool.command("run", how)
    assert ended.returncode == 75
    assert "voicespool: outbox:" in ended.stderr
    assert "is the outbox of another spool" in ended.stderr
    assert spool.results() == ["a"]


def test_until_idle_leaves_no_process(spool: Spool) -> None:
    spool.drop("a.yaml")
    process = spool.start("--until-idle", wait=False)
    assert process.wait(60) == 0
    assert spool.results() == ["a"]
    until(lambda: not processes_of(process.pid, spool.worker_pid()), "no process is left")


def processes_of(*sessions: int) -> list[str]:
    """Command lines of all processes in these sessions, such as the daemon's and its worker's."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) in sessions and is_running(int(folder.name)):
                found.append((folder / "cmdline").read_text())
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


def test_the_worker_ends_when_there_is_no_work_and_the_next_job_starts_another(spool: Spool) -> None:
    """After `device.idle_s` its process is gone and the status shows no loaded model; the daemon continues."""
    spool.config["device"] = {"idle_s": 0.3}
    spool.start()
    spool.drop("a.yaml")
    assert spool.manifest("a")["status"] == "done"
    worker = spool.worker_pid()
    until(lambda: not is_running(worker), "the worker is gone")
    until(lambda: spool.status()["warm"] is None, "nothing is loaded")
    assert until(lambda: spool.lines("worker_ended"), "the log says so")[0]["by_itself"]
    spool.drop("b.yaml")
    assert spool.manifest("b")["status"] == "done"
    assert spool.worker_pid() != worker
    assert spool.stop() == 0


# Notifications to systemd.


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        yield listener


def hear(listener: socket.socket, word: str) -> list[str]:
    """Receive datagrams until one has this line; all lines received."""
    heard: list[str] = []
    while word not in heard:
        heard += listener.recv(4096).decode().split("\n")
    return heard


def test_systemd_hears_ready_watchdog_reloading_and_stopping_from_the_real_daemon(
    spool: Spool, systemd: socket.socket
) -> None:
    """The watchdog is notified also during a render; READY follows the start and each reload."""
    gate, journal = spool.folder / "gate", spool.folder / "journal"
    spool.drop("a.yaml", with_settings(gate=gate, journal=journal))
    notify: dict[str, Any] = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "200000"}
    spool.start(wait=False, **notify)
    hear(systemd, "READY=1")
    until(lambda: chunks_begun(journal), "a chunk is rendered")
    for _ in range(3):
        hear(systemd, "WATCHDOG=1")
    signalled(spool, signal.SIGHUP)
    reload = hear(systemd, "RELOADING=1")
    assert "READY=1" not in reload
    hear(systemd, "READY=1")
    signalled(spool, signal.SIGTERM)
    hear(systemd, "STOPPING=1")
    hear(systemd, "WATCHDOG=1")
    gate.touch()
    assert spool.process is not None
    assert spool.process.wait(60) == 0


def test_a_hold_at_the_start_is_ready_too_and_keeps_the_watchdog_content(spool: Spool, systemd: socket.socket) -> None:
    """systemd must not kill and restart a daemon that waits for a share."""
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    os.rename(spool.outbox, spool.folder / "away")
    spool.start(wait=False, NOTIFY_SOCKET=systemd.getsockname(), WATCHDOG_USEC="200000")
    hear(systemd, "READY=1")
    hear(systemd, "STATUS=hold")
    hear(systemd, "WATCHDOG=1")
    hear(systemd, "WATCHDOG=1")
    assert spool.stop() == 0
