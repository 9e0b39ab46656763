"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spooling import Spool, spooling


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A spool of the test's own, whose default engine is the one that breaks on demand."""
    with spooling(tmp_path / "spool") as one:
        yield one
