"""What the daemon says to systemd, heard on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from watcher.daemon import systemd


@pytest.fixture
def hear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """A socket as systemd has it; calling it gives the lines of the next datagram."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield lambda: listener.recv(4096).decode().split("\n")


def test_each_notification_is_one_datagram_in_systemds_words(hear: Callable[[], list[str]]) -> None:
    assert systemd.ready()
    assert hear() == ["READY=1"]
    assert systemd.ready("watching inbox")
    assert hear() == ["READY=1", "STATUS=watching inbox"]
    assert systemd.watchdog()
    assert hear() == ["WATCHDOG=1"]
    assert systemd.status("rendering olá")
    assert hear() == ["STATUS=rendering olá"]
    assert systemd.stopping()
    assert hear() == ["STOPPING=1"]


def test_reloading_carries_the_monotonic_time_that_systemd_compares(hear: Callable[[], list[str]]) -> None:
    before_us = time.monotonic_ns() // 1000
    assert systemd.reloading()
    kind, stamp = hear()
    assert kind == "RELOADING=1"
    assert before_us <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_name_with_a_line_end_cannot_forge_a_variable(hear: Callable[[], list[str]]) -> None:
    assert systemd.status("job a\nSTOPPING=1\x00 \ud800" + "x" * 5000)
    (line,) = hear()
    assert line.startswith("STATUS=job a\\x0aSTOPPING=1\\x00 \\ud800x")
    assert len(line) < 300


def test_an_abstract_address_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"voicespool-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert systemd.ready()
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/nobody/listens/here", "@nobody-listens", "vsock:2:1"])
def test_without_a_listener_nothing_is_sent_and_nothing_fails(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.ready()
    assert not systemd.status("")


def test_a_listener_that_does_not_read_cannot_stop_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "SEND_TIMEOUT_S", 0.01)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        while systemd.watchdog():
            pass  # until its queue is full; then a send gives up


@pytest.mark.parametrize(
    ("environ", "expected_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_the_time_that_systemd_allows(
    environ: dict[str, str], expected_s: float | None
) -> None:
    assert systemd.watchdog_interval_s(environ) == expected_s
