"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from tests import starting, tiny
from tests.spooling import Spool, spooling

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background makes them and their children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several test processes share the processors, so more threads in each would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow example only means that the machine is busy.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Tests start hundreds of processes. Where bytecode is not to be written, as in many containers, each of them would
# compile our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


TEMPORARY = pytest.StashKey[str]()
NEEDS_TORCH = re.compile(
    r"^\s*(?:import|from) (?:torch|torchaudio|TTS|f5_tts|vocos|transformers)\b"
    r"|\b(?:tiny_xtts|tiny_f5|taught_f5|full_xtts)\b"
    r"|\btiny(?:_whisper)?\.|\bf5_models\b|\btraining_runs\b",
    re.MULTILINE,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only unit tests that need no torch")


def pytest_configure(config: pytest.Config) -> None:
    """All temporary files of a run, also those of libraries, are in one folder, which a green run removes.

    With `-n`, all tests of a file run in one process, which builds what they share once; files keep their order, in
    which those that take long come first.
    """
    if not hasattr(config, "workerinput"):  # a worker of xdist has the environment of the process that started it
        if config.getoption("dist", "no") == "load":
            config.option.dist, config.option.loadscopereorder = "loadfile", False
        folder = tempfile.mkdtemp(prefix="voicespool-tests-")
        os.chmod(folder, 0o1777)  # as /tmp: some tests start daemons as other users
        os.environ["TMPDIR"], tempfile.tempdir = folder, None
        config.stash[TEMPORARY] = folder


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and (folder := session.config.stash.get(TEMPORARY, None)):
        session.config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --quick: leave out the files that mention torch, its libraries, or the tiny models that need them."""
    if not config.getoption("--quick") or collection_path.suffix != ".py" or "unit" not in collection_path.parts:
        return None
    return _needs_torch(collection_path) or None


@cache
def _needs_torch(path: Path) -> bool:
    return bool(NEEDS_TORCH.search(path.read_text("utf-8")))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests' caches apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOICESPOOL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _models_are_freed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a file that needs torch. A loaded model has an open file for each of its tensors."""
    yield
    if _needs_torch(request.path):
        gc.unfreeze()  # engines freeze what is there when they load
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _commands_start_quickly() -> Iterator[None]:
    yield
    starting.end()


@pytest.fixture(scope="session")
def tiny_xtts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real XTTS-v2 of the smallest size, in the base model's folder: `MODELS/xtts-v2/model.pth`.

    All tests of the session share it and must not change it.
    """
    return tiny.model_folder(tmp_path_factory) / "model.pth"


@pytest.fixture(scope="session")
def tiny_f5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for an F5-TTS v1, next to its vocoder: `MODELS/f5-tts-v1/model_1250000.safetensors`."""
    return tiny.f5_checkpoint(tmp_path_factory)


@pytest.fixture(scope="session")
def taught_f5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an F5-TTS v1 that was really trained, and its recording; see `tiny.f5_taught`."""
    return tiny.f5_taught(tmp_path_factory)


@pytest.fixture(scope="session")
def full_xtts() -> Iterator[Path]:
    """The same in full size, 1.9 GB, which takes a while to build; removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield tiny.full_size(Path(folder) / "xtts-v2")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A new spool whose default engine breaks on demand."""
    with spooling(tmp_path / "spool") as test_spool:
        yield test_spool
