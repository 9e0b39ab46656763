"""Engines are found, and no plugin can keep the spool from starting."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engines import registry
from engines.base import Device
from engines.errors import EngineMissing

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture(autouse=True)
def fresh_registry() -> Iterator[None]:
    registry.engines.cache_clear()
    yield
    registry.engines.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Put a plugin on the path: name of its entry point, name of its module, the module's code."""
    before = set(sys.modules)

    def put(name: str, module: str, code: str) -> None:
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[voicespool.engines]\n{name} = {module}:Engine\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield put
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_espeak_is_always_there() -> None:
    """The built-in engine needs no plugin."""
    assert registry.engines()["espeak"].info().name == "espeak"


def test_plugins_are_found_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point is all it takes."""
    monkeypatch.syspath_prepend(PLUGINS)
    assert {"faulty", "instant"} <= set(registry.engines())


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_library_anywhere", "no_such_library_anywhere"),
        ("raise RuntimeError('no GPU here')", "no GPU here"),
        ("import sys; sys.exit('bye')", "bye"),
        ("other = 1", "Engine"),
        ("Engine = 1", "info"),
        ("class Engine:\n  @classmethod\n  def info(cls): raise OSError('no data')", "no data"),
        ("from engines.espeak.engine import Espeak as Engine", "its info() has the name 'espeak'"),
    ],
)
def test_a_broken_plugin_is_listed_with_the_reason(install: Callable[..., None], code: str, reason: str) -> None:
    """It is there, it says why it does not work, it refuses to load, and the others are not disturbed."""
    install("broken", "broken_plugin", code)
    broken = registry.engines()["broken"]
    missing = broken.info().missing
    assert missing is not None
    assert reason in missing
    assert "broken_plugin" in missing.replace("-", "_")
    assert broken.match_language("en") is None
    with pytest.raises(EngineMissing):
        broken().load(None, Device())
    assert registry.engines()["espeak"].info().missing is None


@pytest.mark.parametrize("name", ["espeak", "f5", "xtts", "piper"])
def test_a_plugin_takes_no_name_of_ours(install: Callable[..., None], name: str) -> None:
    """A built-in engine can't be replaced from outside, a planned one can't be taken."""
    install(name, "thief", "class Engine:\n  @classmethod\n  def info(cls): raise AssertionError('used')")
    assert registry.engines().get(name) is not None or name in registry.planned()
    assert registry.engines()["espeak"].info().licence.startswith("GPL")


def test_planned_engines_say_so() -> None:
    """What job files may name and this version lacks has a sentence each, and is not among the engines."""
    assert set(registry.planned()) == {"piper"}
    assert not set(registry.planned()) & set(registry.engines())
    assert all(name in sentence for name, sentence in registry.planned().items())
