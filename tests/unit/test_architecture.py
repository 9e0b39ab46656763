"""The shape of the house: which room may import which, how large a room is, and what the daemon must never load."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = ("files", "engines", "jobs", "watcher")
FLOORS = (
    "files",
    "engines.errors", "engines.installing", "engines.base", "engines.registry", "engines.voices", "engines.modelfiles",
    "engines.checkpoints",
    "engines.device", "engines.neural_engine", "engines.torch", "engines.whisper", "engines.espeak",
    "engines.xtts.net", "engines.xtts", "engines.f5.net", "engines.f5", "engines",
    "jobs.errors", "jobs.names", "jobs.order", "jobs.schedule", "jobs.text", "jobs.audio", "jobs.spec", "jobs.spool",
    "jobs.render", "jobs.results", "jobs.folders", "jobs.publish", "jobs.pipeline", "jobs",
    "watcher.log", "watcher.config", "watcher.client", "watcher.executors.base", "watcher.executors.local",
    "watcher.executors",
    "watcher.readers", "watcher.daemon", "watcher.models", "watcher.doctor", "watcher.cli", "watcher",
)  # fmt: skip
"""Rooms, and modules at the top of a package, in order: each may import itself and those before it."""
MAX_MODULES = 12
TORCH_ROOMS = re.compile(r"engines\.(torch|\w+\.net)(\.|$)")
TERMINAL_ROOM = "watcher.cli"
WORKER_ONLY = {"numpy", "soundfile", "sentencex", "espeakng_loader"}
MODEL_LIBRARIES = {"torch", "torchaudio", "TTS", "f5_tts", "transformers", "vocos", "piper", "onnxruntime"}


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the product."""
    found = {}
    for room in TOP:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Every module named in an import anywhere in a module, also inside functions and for types alone."""
    for node in ast.walk(ast.parse(MODULES[name].read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} line {node.lineno}: write imports in full"
            base = node.module or ""
            yield from (f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names)


def loaded_by(*names: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter holds after importing these."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def floor(name: str) -> int:
    """The place of a module's room in FLOORS."""
    while name not in FLOORS:
        name = name.rpartition(".")[0]
    return FLOORS.index(name)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name: str) -> None:
    """files <- engines <- jobs <- watcher, and among the rooms of each as FLOORS says; never back."""
    back = [other for other in imports(name) if other in MODULES and floor(other) > floor(name)]
    assert not back, f"{name} imports {back}, of rooms above its own"


def test_every_room_is_small_and_says_what_belongs_in_it() -> None:
    """At most a dozen modules; three lines in `__init__.py`."""
    rooms: dict[Path, list[str]] = {}
    for path in MODULES.values():
        rooms.setdefault(path.parent, []).append(path.name)
    for folder, names in rooms.items():
        assert "__init__.py" in names, f"{folder} has no __init__.py"
        assert len(names) - 1 <= MAX_MODULES, f"{folder} has {len(names) - 1} modules"
        words = ast.get_docstring(ast.parse((folder / "__init__.py").read_bytes()))
        assert len((words or "").split("\n")) == 4, f"{folder}/__init__.py: one line, then two more"


def test_torch_is_imported_in_its_rooms_alone() -> None:
    """At module level; everywhere else inside functions."""
    for name, path in MODULES.items():
        names = {
            word.partition(".")[0]
            for node in ast.parse(path.read_bytes()).body
            for word in (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )
        }  # fmt: skip
        assert "torch" not in names or TORCH_ROOMS.match(name), name


def test_no_module_imports_itself_in_a_circle() -> None:
    """No circles, not even ones that types alone or imports inside functions would hide."""
    graph = {name: {other for other in imports(name) if other in MODULES} - {name} for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_engines_and_jobs_load_no_heavy_library() -> None:
    """Importing every module of engines and jobs loads neither a model library nor an audio one.

    The exception is the room where torch is at home; it is entered from inside functions alone, so that none of the
    other modules brings it in.
    """
    light = (name for name in MODULES if not name.startswith("watcher") and not TORCH_ROOMS.match(name))
    assert not loaded_by(*light) & (MODEL_LIBRARIES | WORKER_ONLY)


def test_daemon_stays_small() -> None:
    """The daemon needs no model, audio or terminal library; that is how it stays under 60 MB."""
    loaded = loaded_by("watcher.daemon.loop")
    assert not loaded & (MODEL_LIBRARIES | WORKER_ONLY | {"rich", "matplotlib"})


def test_command_line_starts_light() -> None:
    """`voicespool` with any command starts without a model or audio library."""
    assert not loaded_by("watcher.cli.main") & (MODEL_LIBRARIES | WORKER_ONLY)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if not name.startswith(TERMINAL_ROOM)))
def test_terminal_libraries_stay_at_the_terminal(name: str) -> None:
    """click and rich are used where words are shown to people, nowhere else."""
    assert not {other.partition(".")[0] for other in imports(name)} & {"click", "rich"}


def test_no_drawer_for_leftovers() -> None:
    """Every file is named for its one job."""
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert not [name for name in MODULES if vague & set(name.split("."))]
