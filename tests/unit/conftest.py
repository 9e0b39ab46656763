"""Fixtures for tests of single modules."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.in_process import Desk, desk


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    """A spool without its daemon."""
    with desk(tmp_path / "spool") as one:
        yield one


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def model(tiny_xtts: Path) -> Any:
    """The tiny XTTS-v2, an `engines.xtts.net.model.XttsModel` in float32 on the CPU."""
    return tiny.load(tiny_xtts)


@pytest.fixture(scope="session")
def library(tiny_xtts: Path, tmp_path_factory: pytest.TempPathFactory) -> tiny.Library:
    """The same model, loaded and run by the library's own code."""
    return tiny.Library(tiny_xtts, tmp_path_factory.mktemp("library") / "copy")
