"""The worker process, broken in every way that we could think of: the daemon's side always knows the cause."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog

from engines.checkpoints.reference import CheckpointRef
from jobs.errors import Hold, RenderFailed, WorkerUnready
from jobs.order import Order
from jobs.spec.job_spec import JobSpec
from tests.headers import save
from tests.spooling import PATIENCE_S, PLUGINS, ROOT, until
from watcher.config.settings import Limits
from watcher.executors.base import Ended
from watcher.executors.local import executor, messages, oom
from watcher.executors.local import worker as worker_module
from watcher.executors.local.process import WorkerProcess
from watcher.executors.local.worker import Died, Done, Event, Failed, Loaded, Progress, Started, Stopped, Worker

HERE = Path(__file__).parent
STAND_IN = HERE / "daemon_stand_in.py"

Orders = Callable[..., Order]
Log = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines `faulty` and `probe`, for every process that a test starts."""
    monkeypatch.setenv("PROBE_DIARY", str(tmp_path / "diary"))
    places = [ROOT, PLUGINS, HERE / "plugins"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))


@pytest.fixture
def log() -> Log:
    """The log lines."""
    return []


@pytest.fixture
def worker(log: Log) -> Iterator[Worker]:
    logger = structlog.wrap_logger(None, processors=[Recorder(log)], wrapper_class=structlog.BoundLogger)
    with Worker({"name": "cpu"}, logger) as handle:
        yield handle


class Recorder:
    """A structlog processor that keeps the lines."""

    def __init__(self, lines: Log) -> None:
        self._lines = lines

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        self._lines.append({"level": method, **event})
        raise structlog.DropEvent


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    """Makes orders, each with its own result folder; keywords are the engine's settings."""
    count = 0

    def order(text: str = "One. Two. Three.", engine: str = "faulty", **settings: object) -> Order:
        nonlocal count
        count += 1
        chunks, result = tmp_path / "chunks", tmp_path / f"result-{count}"
        chunks.mkdir(exist_ok=True)
        result.mkdir()
        asked = {"text": text, "engine": engine, "language": "en", "settings": settings}
        spec = JobSpec.model_validate(asked).packed()
        return Order(f"job-{count}", "hello", spec, engine, None, {}, {}, str(chunks), str(result))

    return order


def finish(worker: Worker) -> list[Event]:
    """All events up to the end of the order."""
    return follow(worker, lambda event: isinstance(event, Done | Failed | Stopped | Died))


def follow(worker: Worker, is_last: Callable[[Event], bool]) -> list[Event]:
    """Events up to the requested one, read with a selector as in the daemon."""
    events: list[Event] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        select.select([worker], [], [], 0.5)
        events += [event for event in worker.receive() if not isinstance(event, Started)]
        if events and is_last(events[-1]):
            return events
    raise AssertionError(f"nothing more after {events}")


def render(worker: Worker, order: Order) -> Event:
    worker.submit(order)
    return finish(worker)[-1]


def is_gone(pid: int) -> bool:
    """Whether no process of that number is alive; a zombie is not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def printed(log: Log) -> list[str]:
    return [line["line"] for line in log if line["event"] == "worker printed"]


# Without failures.


def test_an_order_is_loaded_rendered_and_told_in_that_order(worker: Worker, orders: Orders) -> None:
    order = orders()
    worker.submit(order)
    loaded, *progress, done = finish(worker)
    assert isinstance(loaded, Loaded)
    assert progress
    assert all(isinstance(event, Progress) for event in progress)
    assert isinstance(done, Done)
    assert done.rendering.files == ("hello.wav",)
    assert Path(order.result_dir, "hello.wav").stat().st_size > 1000
    assert done.rendering.engine["device"] == "cpu"
    assert not worker.orders
    assert worker.warm == ("faulty", None)


def test_the_engine_stays_warm_from_one_order_to_the_next(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    loads = []
    for _ in range(3):
        worker.submit(orders(engine="probe"))
        events = finish(worker)
        assert isinstance(events[-1], Done)
        loads += [event.load_s for event in events if isinstance(event, Loaded)]
        assert events[-1].rendering.timing["load_s"] == loads[-1]
    assert loads[0] > 0
    assert loads[1:] == [0.0, 0.0]
    assert (tmp_path / "diary").read_text() == f"{worker.pid} load None on cpu\n"


def test_another_engine_or_checkpoint_is_loaded_after_the_old_one_is_closed(
    worker: Worker, orders: Orders, tmp_path: Path
) -> None:
    first = orders(engine="probe")
    checkpoint = tmp_path / "a.pth"
    checkpoint.write_bytes(b"a model")
    for order in (
        first,
        dataclasses.replace(first, checkpoint=CheckpointRef(checkpoint, "a.pth"), result_dir=orders().result_dir),
        dataclasses.replace(first, device={"name": "cuda", "idle_s": 5}, result_dir=orders().result_dir),
        orders(),
    ):
        assert isinstance(render(worker, order), Done)
    assert worker.warm == ("faulty", None)
    lines = [line.partition(" ")[2] for line in (tmp_path / "diary").read_text().splitlines()]
    assert lines == [
        "load None on cpu",
        "close None on cpu",
        f"load {checkpoint} on cpu",
        f"close {checkpoint} on cpu",
        "load None on cuda",
        "close None on cuda",
    ]


def test_a_checkpoint_that_was_replaced_is_loaded_anew(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    """Under its old name; meanwhile it is not reported as loaded."""
    checkpoint = str(tmp_path / "a.pth")
    before = CheckpointRef(Path(checkpoint), "a.pth", state=(1, 2, 3))
    first = dataclasses.replace(orders(engine="probe"), checkpoint=before)
    again = dataclasses.replace(first, result_dir=orders().result_dir)
    after = dataclasses.replace(before, state=(1, 2, 4))
    other = dataclasses.replace(first, result_dir=orders().result_dir, checkpoint=after)
    assert isinstance(render(worker, first), Done)
    warm = []
    for order in (again, other):
        worker.submit(order)
        warm.append(worker.warm)
        assert isinstance(finish(worker)[-1], Done)
    assert warm == [("probe", checkpoint), None]
    assert worker.warm == ("probe", checkpoint)
    lines = [line.partition(" ")[2] for line in (tmp_path / "diary").read_text().splitlines()]
    assert lines == [f"load {checkpoint} on cpu", f"close {checkpoint} on cpu", f"load {checkpoint} on cpu"]


def test_a_job_that_can_not_be_done_leaves_the_loaded_engine_alone(
    worker: Worker, orders: Orders, tmp_path: Path
) -> None:
    """It is refused before its model is loaded, so nothing is unloaded for it."""
    assert isinstance(render(worker, orders(engine="probe")), Done)
    refused = dataclasses.replace(orders(engine="faulty"), spec={"text": "Hello.", "language": "ja"})
    events = [render(worker, refused)]
    assert isinstance(events[0], Failed)
    assert events[0].code == "engine_refused"
    done = render(worker, orders(engine="probe"))
    assert isinstance(done, Done)
    assert done.rendering.timing["load_s"] == 0.0


def test_a_checkpoint_that_the_engine_refuses_is_told_apart_and_tried_once(
    worker: Worker, orders: Orders, tmp_path: Path
) -> None:
    """The worker continues; if it is ordered again, the loaded engine stays. A changed file is tried again."""
    path = save(tmp_path / "anna.safetensors", refused="its vocabulary is torn")
    base = dataclasses.replace(orders(engine="tuned"), spec={"text": "Hello.", "speaker": "x"})
    torn = dataclasses.replace(base, checkpoint=CheckpointRef(path, "anna", state=(1,)))
    refusal = Failed(torn.job_id, "checkpoint_refused", "its vocabulary is torn", "Train it again.", retryable=False)
    assert render(worker, torn) == refusal
    loads = []
    for _ in range(2):
        done = render(worker, dataclasses.replace(base, result_dir=orders().result_dir))
        assert isinstance(done, Done)
        loads.append(done.rendering.engine["loads"])
        assert render(worker, torn) == refusal
    assert loads[0] == loads[1]
    save(path)
    checkpoint = CheckpointRef(path, "anna", state=(2,))
    mended = dataclasses.replace(torn, result_dir=orders().result_dir, checkpoint=checkpoint)
    assert isinstance(render(worker, mended), Done)


def test_the_order_says_where_models_are(worker: Worker, orders: Orders) -> None:
    """Another folder may have another base model, so the same worker loads the engine again."""
    first = dataclasses.replace(orders(engine="probe"), models="/somewhere/models")
    other = dataclasses.replace(first, models="/elsewhere/models", result_dir=orders().result_dir)
    pid = None
    for order in (first, other):
        done = render(worker, order)
        assert isinstance(done, Done)
        assert done.rendering.engine["models"] == order.models
        assert pid in (None, worker.pid)
        pid = worker.pid


def test_the_process_is_private_modest_and_light(
    worker: Worker, orders: Orders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.chdir(tmp_path)
    done = render(worker, orders(engine="probe"))
    assert isinstance(done, Done)
    facts = done.rendering.engine
    assert facts["umask"] == 0o077
    assert facts["leads_session"]
    assert facts["core_bytes"] == 0
    assert facts["oom_score"] > 0
    assert facts["stdin"] == "/dev/null"
    assert "NOTIFY_SOCKET" not in facts["environment"]
    assert not {"", str(tmp_path)} & set(facts["path"])
    assert len(facts["open_files"]) == 5
    assert not facts["torch"]


def test_a_large_order_reaches_a_worker_that_is_still_starting(worker: Worker, orders: Orders) -> None:
    order = dataclasses.replace(orders("Short."), transcripts={"a.wav": "x" * 5_000_000})
    assert isinstance(render(worker, order), Done)


def test_orders_of_one_model_are_rendered_together(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    """Each gets a chunk before another gets its second; one for another model comes after them."""
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    settings: dict[str, object] = {"journal": str(journal), "gate": str(gate)}
    worker.submit(orders("One is long. It goes on. And on.", **settings))
    until(journal.exists)
    other = orders("Other.", engine="instant")
    worker.submit(other)
    for text in ("Two is long. It goes on.", "Three is short."):
        worker.submit(last := orders(text, **settings))
    follow(worker, lambda event: isinstance(event, Progress) and event.job_id == last.job_id)  # they are in the stream
    gate.touch()
    ended = [event.job_id for event in follow(worker, lambda _: not worker.orders) if isinstance(event, Done)]
    assert ended == ["job-4", "job-3", "job-1", other.job_id]


def test_facts_that_are_not_json_fail_their_job_and_the_worker_goes_on(worker: Worker, orders: Orders) -> None:
    failed = render(worker, orders("Odd.", engine="probe"))
    assert isinstance(failed, Failed)
    assert "JSON" in failed.message
    assert isinstance(render(worker, orders()), Done)


def test_an_engine_that_broke_is_not_used_for_the_next_orders(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    """They had arrived after it got its last chunk; nobody blames them."""
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    local = executor.LocalExecutor(worker, Limits(), idle_s=600.0)
    broken = orders("One.", fault="raise", journal=str(journal), gate=str(gate))
    local.submit(broken)
    until(journal.exists)
    for text in ("Two.", "Three."):
        local.submit(orders(text))
    gate.touch()
    events = []
    while local.capacity < Limits().jobs_in_flight:
        events += until(local.events, "they end")
    results = {event.job_id: event.result for event in events if isinstance(event, Ended)}
    assert isinstance(results.pop(broken.job_id), RenderFailed)
    assert set(results.values()) == {None}
    assert not worker.alive


def test_an_interpreter_that_is_not_there_is_a_hold(orders: Orders) -> None:
    with (
        Worker({}, structlog.get_logger(), python="/nowhere/python") as worker,
        pytest.raises(Hold, match="can't be started"),
    ):
        worker.submit(orders())


# Failures that leave the worker alive.


@pytest.mark.parametrize(
    ("settings", "expected", "words"),
    [
        ({"fault": "raise"}, ("engine_failed", True), "RuntimeError: CUDA error: device-side assert"),
        ({"fault": "sys_exit"}, ("engine_failed", True), "SystemExit: a library called sys.exit"),
        ({"fault": "error"}, ("engine_failed", True), "as configured"),
        ({"fault": "refuse"}, ("engine_refused", False), "as configured"),
        ({"fault": "missing"}, ("engine_missing", False), "as configured"),
        ({"fault": "oom"}, ("out_of_memory", True), "4 GiB"),
        ({"fault": "allocate", "allocate_mb": 1}, ("out_of_memory", True), "MemoryError"),
        ({"fault": "nan"}, ("engine_bad_audio", True), ""),
    ],
)
def test_a_failure_is_told_with_code_and_words(
    worker: Worker, orders: Orders, settings: dict[str, object], expected: tuple[str, bool], words: str
) -> None:
    failed = render(worker, orders(**settings))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == expected
    assert words in failed.message
    assert failed.message.isprintable()
    assert failed.hint
    assert worker.alive


def test_what_nobody_foresaw_leaves_its_traceback_in_the_log(worker: Worker, orders: Orders, log: Log) -> None:
    order = orders(fault="raise")
    render(worker, order)
    lines = [line for line in log if line["event"] == "worker printed"]
    assert any("faults.py" in line["line"] for line in lines)
    assert all(line["job_id"] == order.job_id and line["action"] == "worker_output" for line in lines)


def test_a_full_disk_is_a_hold_and_a_full_device_is_told_apart(worker: Worker, orders: Orders) -> None:
    disk = render(worker, orders("Disk.", engine="probe"))
    assert isinstance(disk, Failed)
    assert disk.code == "hold"
    assert "/somewhere/full" in disk.message
    memory = render(worker, orders("Memory.", engine="probe"))
    assert isinstance(memory, Failed)
    assert memory.code == "out_of_memory"


def test_an_unknown_engine_is_named(worker: Worker, orders: Orders) -> None:
    failed = render(worker, dataclasses.replace(orders(), engine="unheard-of"))
    assert isinstance(failed, Failed)
    assert failed.code == "engine_missing"
    assert "unheard-of" in failed.message


# Deaths.


@pytest.mark.parametrize(
    ("fault", "reason", "number"),
    [
        ("segfault", "crashed (segmentation fault, SIGSEGV)", "SIGSEGV"),
        ("abort", "crashed (it aborted, SIGABRT)", "SIGABRT"),
        ("exit", "ended by itself with exit code 3", None),
        ("exit_well", "ended by itself with exit code 0", None),
        ("kill", "was killed from outside (SIGKILL)", "SIGKILL"),
    ],
)
def test_a_death_is_told_and_the_next_order_gets_a_fresh_worker(
    worker: Worker, orders: Orders, fault: str, reason: str, number: str | None
) -> None:
    worker.submit(orders(fault=fault, only="Two"))
    first = worker.pid
    assert finish(worker)[-1] == Died(reason, "worker_died", number)
    assert not worker.alive
    assert not worker.orders
    assert worker.warm is None
    assert worker.receive() == []
    assert isinstance(render(worker, orders()), Done)
    assert worker.pid != first


def test_a_crash_while_loading_is_a_death_too(
    worker: Worker, orders: Orders, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setenv("FAULTY_LOAD", "segfault")
    assert render(worker, orders()) == Died("crashed (segmentation fault, SIGSEGV)", "worker_died", "SIGSEGV")
    assert any("Segmentation fault" in line for line in printed(log))
    assert any("in load" in line for line in printed(log))


def test_the_death_of_an_idle_worker_is_told_and_hurts_no_job(worker: Worker, orders: Orders) -> None:
    render(worker, orders())
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    (died,) = follow(worker, lambda event: isinstance(event, Died))
    assert died == Died("was killed from outside (SIGKILL)", "worker_died", "SIGKILL")


def test_starting_ahead_does_not_hide_the_death_of_a_busy_worker(worker: Worker, orders: Orders) -> None:
    """A job that is queued between a worker's death and its detection starts no other worker."""
    worker.submit(orders(fault="hang"))
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not worker.alive)
    worker.start()
    assert isinstance(finish(worker)[-1], Died)


def test_an_order_to_a_worker_that_died_unnoticed_goes_to_a_fresh_one(worker: Worker, orders: Orders) -> None:
    render(worker, orders())
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: not worker.alive)
    assert isinstance(render(worker, orders()), Done)


@pytest.mark.parametrize("fault", ["hang", "hang_deaf"])
def test_a_worker_that_hangs_can_be_killed(worker: Worker, orders: Orders, tmp_path: Path, fault: str) -> None:
    worker.submit(orders(fault=fault, journal=str(tmp_path / "journal")))
    until((tmp_path / "journal").exists)
    pid = worker.pid
    assert pid is not None
    worker.kill()
    assert not psutil.pid_exists(pid)
    assert not worker.alive
    assert not worker.orders
    assert worker.receive() == []
    worker.kill()


def test_a_worker_that_is_stopped_can_be_killed(worker: Worker, orders: Orders) -> None:
    render(worker, orders())
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    worker.kill()
    assert not psutil.pid_exists(pid)


def test_what_an_engine_started_dies_with_the_worker(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    worker.submit(orders(fault="hang_with_child", journal=str(journal)))
    until(lambda: journal.exists() and " child\n" in journal.read_text())
    child = int(journal.read_text().splitlines()[-1].split()[0])
    assert not is_gone(child)
    worker.kill()
    assert is_gone(child)


def test_what_an_engine_started_dies_when_the_worker_crashes(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    worker.submit(orders(fault="hang_with_child", journal=str(journal)))
    until(lambda: journal.exists() and " child\n" in journal.read_text())
    child = int(journal.read_text().splitlines()[-1].split()[0])
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSEGV)
    died = finish(worker)[-1]
    assert isinstance(died, Died)
    assert died.signal == "SIGSEGV"
    until(lambda: is_gone(child), "the child is gone")


# Invalid messages.


def test_rubbish_on_the_outputs_forges_nothing(worker: Worker, orders: Orders, log: Log) -> None:
    assert isinstance(render(worker, orders(fault="rubbish")), Done)
    worker.close()
    assert printed(log)
    assert all(line.replace("\ufffd", "").isprintable() for line in printed(log))


def test_a_flood_without_a_line_end_neither_blocks_nor_floods(worker: Worker, orders: Orders, log: Log) -> None:
    assert isinstance(render(worker, orders(fault="flood")), Done)
    worker.close()
    assert len(printed(log)) < 10
    assert sum(map(len, printed(log))) < 10_000


@pytest.mark.parametrize(
    ("trick", "words"), [("Write.", "not a message"), ("Endless.", "invalid message"), ("Lie.", "result's folder")]
)
def test_rubbish_on_the_protocol_is_the_end_of_that_worker(
    worker: Worker, orders: Orders, trick: str, words: str
) -> None:
    worker.submit(orders(trick, engine="probe"))
    pid = worker.pid
    assert pid is not None
    died = finish(worker)[-1]
    assert isinstance(died, Died)
    assert died.code == "worker_died"
    assert died.reason.startswith("sent an invalid message")
    assert words in died.reason
    assert died.reason.isprintable()
    assert not psutil.pid_exists(pid)
    assert isinstance(render(worker, orders()), Done)


def test_a_worker_that_hangs_up_and_lives_on_is_killed(
    worker: Worker, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "HUNG_UP_S", 0.05)
    died = render(worker, orders("Hangup.", engine="probe"))
    assert isinstance(died, Died)
    assert died.reason.startswith("closed its socket")


def test_a_forked_process_that_falls_out_of_an_engine_does_not_speak_for_the_worker(
    worker: Worker, orders: Orders
) -> None:
    assert isinstance(render(worker, orders("Fork.", engine="probe")), Done)
    assert isinstance(render(worker, orders("Fork.", engine="probe")), Done)


# Stopping and ending.


def test_a_stop_takes_effect_at_the_end_of_the_chunk(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    settings = {"journal": str(journal), "gate": str(gate)}
    worker.submit(orders("One is here. Two is here. Three is here.", **settings))
    until(journal.exists)
    (job_id,) = worker.orders
    worker.ask_stop(job_id, at_once=False)
    gate.touch()
    assert isinstance(finish(worker)[-1], Stopped)
    begun = len(journal.read_text().splitlines())
    assert begun < 3
    assert isinstance(render(worker, orders("One is here. Two is here. Three is here.", **settings)), Done)
    assert len(journal.read_text().splitlines()) == 3
    assert worker.alive


def test_a_stop_that_comes_late_does_not_hit_the_next_order(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    first = orders(gate=str(tmp_path / "gate"))
    worker.submit(first)
    follow(worker, lambda event: isinstance(event, Loaded | Progress))
    (tmp_path / "gate").touch()
    while not select.select([worker], [], [], PATIENCE_S)[0]:
        pass
    worker.ask_stop(first.job_id, at_once=False)
    assert isinstance(finish(worker)[-1], Done | Stopped)
    assert isinstance(render(worker, orders()), Done)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_meant_for_the_daemon_do_not_end_a_chunk(
    worker: Worker, orders: Orders, tmp_path: Path, number: signal.Signals
) -> None:
    worker.submit(orders(gate=str(tmp_path / "gate"), journal=str(tmp_path / "journal")))
    until((tmp_path / "journal").exists)
    assert worker.pid is not None
    os.kill(worker.pid, number)
    (tmp_path / "gate").touch()
    assert isinstance(finish(worker)[-1], Done)


def test_an_idle_worker_ends_politely_and_closes_its_engine(
    worker: Worker, orders: Orders, tmp_path: Path, log: Log
) -> None:
    render(worker, orders(engine="probe"))
    pid = worker.pid
    assert pid is not None
    worker.close()
    assert not psutil.pid_exists(pid)
    assert (tmp_path / "diary").read_text().endswith(f"{pid} close None on cpu\n")
    assert [line["by_itself"] for line in log if line["event"] == "worker ended"] == [True]
    worker.close()


def test_a_worker_that_does_not_end_when_told_is_killed(
    worker: Worker, orders: Orders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "CLOSE_WAIT_S", 0.05)
    worker.submit(orders(fault="hang", journal=str(tmp_path / "journal")))
    until((tmp_path / "journal").exists)
    pid = worker.pid
    assert pid is not None
    worker.close()
    assert not psutil.pid_exists(pid)


def test_fifty_workers_leave_no_file_open_and_no_process(worker: Worker) -> None:
    worker.start()
    worker.kill()
    before = sorted(os.listdir("/proc/self/fd"))
    pids = []
    for turn in range(50):
        worker.start()
        assert worker.pid is not None
        pids.append(worker.pid)
        if turn % 10 == 0:
            worker.close()
        worker.kill()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not {process.pid for process in psutil.Process().children()} & set(pids)


def test_a_start_that_lacks_open_files_is_a_hold_and_leaves_none_open(worker: Worker) -> None:
    """At every step of the start at which they can run out."""
    worker.start()
    worker.kill()
    with contextlib.ExitStack() as gaps:
        fill_gaps(gaps)
        _start_with_few_files(worker)


def fill_gaps(gaps: contextlib.ExitStack) -> None:
    """Leave no free descriptor below the highest, so that a limit on their number applies from there."""
    highest = max(map(int, os.listdir("/proc/self/fd")))
    while (filler := os.open(os.devnull, os.O_RDONLY)) < highest:
        gaps.callback(os.close, filler)
    os.close(filler)


def _start_with_few_files(worker: Worker) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, before))
    for free in range(1, 20):
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + free, hard))
        try:
            worker.start()
        except Hold as hold:
            refused = hold.message
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert refused.startswith("the worker can't be started: Too many open files")
        assert sorted(os.listdir("/proc/self/fd")) == before
    assert worker.alive
    assert free > 5


def test_a_worker_that_hangs_before_it_is_ready_is_a_hold_and_is_killed(
    worker: Worker, orders: Orders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "READY_S", 0.3)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE / "start"), os.environ["PYTHONPATH"]]))
    monkeypatch.setenv("START_FAULT", "hang")
    monkeypatch.setenv("START_WHILE", str(tmp_path))

    local = executor.LocalExecutor(worker, Limits(stall_s=0.1), idle_s=600.0)
    local.submit(orders())
    (ended,) = until(local.events, "it is given up")
    assert isinstance(ended, Ended)
    assert isinstance(ended.result, WorkerUnready)
    assert ended.result.message.startswith("the worker was not ready after")
    assert local.capacity == Limits().jobs_in_flight
    assert not worker.alive


# The daemon dies, or the machine runs out of memory.


@contextlib.contextmanager
def stand_in(tmp_path: Path, order: Order, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A stand-in for the daemon that can be killed."""
    (tmp_path / "order.json").write_bytes(messages.order_line(order))
    command = [sys.executable, str(STAND_IN), str(tmp_path / "order.json"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_nothing_outlives_a_daemon_that_is_killed(orders: Orders, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with stand_in(tmp_path, orders(fault="hang_with_child", journal=str(journal))) as daemon:
        until(lambda: journal.exists() and " child\n" in journal.read_text())
        child = int(journal.read_text().splitlines()[-1].split()[0])
        group = os.getpgid(child)
        daemon.kill()
        until(lambda: is_gone(child) and is_gone(group))
        until(lambda: not [stat for stat in psutil.process_iter() if _group_of(stat.pid) == group])


def test_a_worker_that_starts_after_its_daemon_died_ends_at_once() -> None:
    source, sink = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "watcher.executors.local.main", str(theirs.fileno()), str(source), "1"]
        ended = subprocess.run(
            command, pass_fds=(theirs.fileno(), source), start_new_session=True, timeout=PATIENCE_S, check=False
        )
    assert ended.returncode == 1
    os.close(source)
    os.close(sink)


def test_a_worker_whose_line_is_closed_ends_by_itself() -> None:
    process = WorkerProcess(sys.executable)
    process.channel.close()
    assert process.wait(PATIENCE_S)
    assert process.kill(PATIENCE_S)
    assert process.returncode == -signal.SIGKILL
    process.close()


def _group_of(pid: int) -> int | None:
    """The process group of a process."""
    with contextlib.suppress(ProcessLookupError):
        return None if is_gone(pid) else os.getpgid(pid)
    return None


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A cgroup with a limit of 150 MB. Skips if none can be made."""
    count = oom.kill_count()
    if count is None or not count.source.name.startswith("memory."):
        pytest.skip("this machine has no memory cgroup that counts processes ended for memory")
    group = count.source.parent / f"voicespool-test-{os.getpid()}-{time.monotonic_ns()}"
    v2 = count.source.name.startswith("memory.events")
    limits = ["memory.max"] if v2 else ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    try:
        try:
            for limit in limits:
                (group / limit).write_text(str(150 << 20))
        except OSError as error:
            pytest.skip(f"no memory limit can be set here: {error.strerror}")
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_worker_that_the_kernel_ends_for_memory_is_told_apart(
    orders: Orders, tmp_path: Path, memory_group: Path
) -> None:
    with stand_in(tmp_path, orders(fault="allocate"), str(memory_group)) as daemon:
        printed, _ = daemon.communicate(timeout=PATIENCE_S)
    assert daemon.returncode == 0
    assert "Died(reason='was killed by the kernel because memory ran out (SIGKILL)', code='worker_oom'" in printed
