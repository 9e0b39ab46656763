"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spooling import Spool, spooling

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them, and all they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A spool of the test's own, whose default engine is the one that breaks on demand."""
    with spooling(tmp_path / "spool") as one:
        yield one
