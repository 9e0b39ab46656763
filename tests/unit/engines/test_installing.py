"""Commands that install what is missing work where voicespool was installed from."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from engines import installing

ROOT = Path(__file__).parents[3]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    installing.for_extra.cache_clear()
    yield
    installing.for_extra.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The metadata of a voicespool that this interpreter finds before its own, as a wheel of this project has it."""
    folder = tmp_path / "site" / "voicespool-9.dist-info"
    folder.mkdir(parents=True)
    needs = ["espeakng-loader>=0.2.4", *(f"{one}; extra == '{name}'" for name in EXTRAS for one in EXTRAS[name])]
    lines = ["Metadata-Version: 2.4", "Name: voicespool", "Version: 9", *(f"Requires-Dist: {one}" for one in needs)]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def origin(installed: Path, folder: Path, **about: Any) -> None:
    """What an installer writes down of where it took voicespool from."""
    (installed / "direct_url.json").write_text(json.dumps({"url": folder.as_uri(), "dir_info": about}))


def words(command: str) -> list[str]:
    """What is installed: all behind `install`, after the interpreter was seen to be this one."""
    found = shlex.split(command)
    assert sys.executable in found
    return [word for word in found[found.index("install") + 1 :] if word not in ("--python", sys.executable)]


def test_an_editable_checkout_is_named_with_its_extra(installed: Path, tmp_path: Path) -> None:
    """Also under a path that a shell would split."""
    checkout = tmp_path / "my voicespool"
    checkout.mkdir()
    origin(installed, checkout, editable=True)
    assert words(installing.for_extra("f5", "f5-tts")) == ["-e", f"{checkout}[f5]"]
    installing.for_extra.cache_clear()
    (checkout / "constraints.txt").touch()
    assert words(installing.for_extra("f5", "f5-tts")) == ["-c", f"{checkout}/constraints.txt", "-e", f"{checkout}[f5]"]


@pytest.mark.parametrize(
    "about", [None, {}, {"editable": True}], ids=["a wheel", "a folder", "a checkout that is gone"]
)
@pytest.mark.parametrize("extra", ["f5", "xtts"])
def test_from_anywhere_else_the_libraries_are_named(
    installed: Path, tmp_path: Path, about: dict[str, Any] | None, extra: str
) -> None:
    """No registry has to know voicespool: with the bounds of pyproject.toml."""
    if about is not None:
        origin(installed, tmp_path / "gone", **about)
    assert words(installing.for_extra(extra, "x")) == EXTRAS[extra]


def test_without_metadata_the_engine_s_own_words_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installing, "distribution", unknown)
    assert words(installing.for_extra("f5", "f5-tts", "torch")) == ["f5-tts", "torch"]
    assert words(installing.for_package("espeakng-loader")) == ["espeakng-loader"]


@pytest.mark.usefixtures("installed")
def test_a_library_that_is_always_needed_comes_with_its_bounds() -> None:
    assert words(installing.for_package("espeakng-loader", "--force-reinstall")) == [
        "--force-reinstall", "espeakng-loader>=0.2.4"
    ]  # fmt: skip


@pytest.mark.parametrize(("pip", "program"), [(True, [sys.executable, "-m", "pip"]), (False, ["uv", "pip"])])
def test_the_environment_s_own_installer_is_asked(
    monkeypatch: pytest.MonkeyPatch, pip: bool, program: list[str]
) -> None:
    """pip where it is in the environment; uv fills those that have none."""
    monkeypatch.setattr(installing, "find_spec", lambda _name: object() if pip else None)
    command = shlex.split(installing.for_extra("f5", "f5-tts"))
    assert command[: len(program)] == program
