"""The daemon's end of the socket never waits, whatever the other end does."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from watcher.executors.local import channel
from watcher.executors.local.channel import WorkerChannel
from watcher.executors.local.messages import InvalidMessage


@pytest.fixture
def ends() -> Iterator[tuple[WorkerChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(10)
        yield WorkerChannel(ours), theirs


def test_lines_come_whole(ends: tuple[WorkerChannel, socket.socket]) -> None:
    line, theirs = ends
    assert line.read(4) == []
    theirs.sendall(b"one\ntw")
    assert line.read(4) == [b"one"]
    theirs.sendall(b"o\n\nthree\n")
    assert line.read(4) == [b"two", b"", b"three"]
    assert not line.hung_up


def test_a_reader_that_does_not_read_keeps_nobody_waiting(ends: tuple[WorkerChannel, socket.socket]) -> None:
    line, theirs = ends
    sent = b"x" * 3_000_000 + b"\n"
    line.send(sent)
    line.send(b"more\n")
    assert line.is_pending
    got = b""
    while len(got) < len(sent) + 5:
        got += theirs.recv(1 << 20)
        line.flush()
    assert got == sent + b"more\n"
    assert not line.is_pending


def test_what_was_said_before_hanging_up_is_heard(ends: tuple[WorkerChannel, socket.socket]) -> None:
    line, theirs = ends
    theirs.sendall(b"last words\nhalf a l")
    theirs.close()
    assert line.read(4) == [b"last words"]
    assert line.hung_up
    assert line.read(4) == []
    line.send(b"into the void\n")
    assert not line.is_pending


def test_a_line_without_end_is_refused(
    ends: tuple[WorkerChannel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_MESSAGE_BYTES", 1000)
    line, theirs = ends
    theirs.sendall(b"x" * 2000)
    with pytest.raises(InvalidMessage, match="without a line end"):
        line.read(4)
