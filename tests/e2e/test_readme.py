"""What the README promises, done as it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from engines.xtts.engine import MAX_CHARS_IN, OPTIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent
PACKAGES = ("watcher", "jobs", "engines", "files")


def blocks(kind: str) -> list[str]:
    """The fenced blocks of the README whose first line says `kind`."""
    return [text for said, text in re.findall(r"^```(.*?)\n(.*?)^```$", README, re.M | re.S) if said == kind]


def shell(script: str, folder: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def environ() -> dict[str, str]:
    """This environment, with the `voicespool` under test first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VOICESPOOL_")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def test_commands_work_as_written(tmp_path: Path, environ: dict[str, str]) -> None:
    """Every block marked runnable works, in the order of the page, in an empty folder far from the checkout."""
    done = shell("\n".join(blocks("sh runnable")), tmp_path, environ)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("fox", "ola"):
        assert (tmp_path / f"studio/outbox/{name}/{name}.wav").is_file()


def test_first_screen_is_true(tmp_path: Path, environ: dict[str, str]) -> None:
    """The job file of the first screen gives the tree of the first screen."""
    job = blocks("yaml")[0]
    source = re.match(r"# (inbox/\S+)\n", job)
    tree = next(block for block in blocks("") if block.startswith("outbox/"))
    assert source is not None
    (tmp_path / source[1]).parent.mkdir(parents=True)
    (tmp_path / source[1]).write_text(job, "utf-8")
    done = shell("voicespool run --once", tmp_path, environ)
    assert done.returncode == 0, done.stderr
    folder, *lines = tree.splitlines()
    names = {re.sub(r"^[├└]── (\S+).*", r"\1", line) for line in lines}
    assert {path.name for path in (tmp_path / folder).iterdir()} == names


def test_demo_shows_results_and_runs_twice(tmp_path: Path, environ: dict[str, str]) -> None:
    """`make demo`: two recordings with their length, one failure with its reason; a second time as well. No log line;
    the commands that it names for what is next work.
    """
    for number in ("", "~2"):
        done = shell(f'python "{ROOT}/examples/demo.py" demo', tmp_path, environ)
        assert done.returncode == 0, done.stdout + done.stderr
        for name in ("hello", "ola"):
            assert re.search(rf"^  demo/outbox/{name}{number} +done +\d+\.\d s of audio$", done.stdout, re.M)
            assert (tmp_path / f"demo/outbox/{name}{number}/{name}.wav").is_file()
        assert re.search(rf"^  demo/outbox/broken.failed{number} +failed$", done.stdout, re.M)
        words = (tmp_path / f"demo/outbox/broken.failed{number}/ERROR.txt").read_text("utf-8")
        assert "langauge" in words
        assert " ".join(words.split()) in " ".join(done.stdout.split())
        assert (done.stderr, "hello.wav" in done.stdout.partition("Listen:")[2]) == ("", True)
    _run, submit = re.findall(r"^  (\S*voicespool .*)$", done.stdout.partition("Next:")[2], re.M)
    said = shell(submit.replace(" --wait", ""), tmp_path, environ)
    assert (said.returncode, said.stdout) == (0, f"{tmp_path}/demo/inbox/your-own-text.yaml\n"), said.stderr


@pytest.mark.parametrize("is_built", [True, pytest.param(False, marks=pytest.mark.long)])
def test_demo_xtts_shows_its_result(tmp_path: Path, environ: dict[str, str], tiny_xtts: Path, is_built: bool) -> None:
    """`make demo-xtts`, a first time and after that: where the result is, how long, and what spoke it."""
    if is_built:
        shutil.copytree(tiny_xtts.parent, tmp_path / "demo/models/anna", copy_function=os.link)
    done = shell(f'python "{ROOT}/examples/demo_xtts.py" demo', tmp_path, environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo/outbox/finetuned\n" in done.stdout
    for words in (r"length +\d\.\d s", r"engine +xtts \(coqui-tts", r"checkpoint +anna/model\.pth", r"device +\w+"):
        assert re.search(words, done.stdout), done.stdout
    assert (tmp_path / "demo/outbox/finetuned/finetuned.wav").is_file()
    assert "noise" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_what_exists(page: Path, environ: dict[str, str]) -> None:
    """Links lead to files, commands are ones that `voicespool` has, make targets are in the Makefile."""
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    known = shell("voicespool --help", ROOT, environ).stdout
    commands = set(re.findall(r"`voicespool (?:--config \S+ )?([a-z]+)", text))
    assert [name for name in commands if not re.search(rf"^  {name}\b", known, re.M)] == []
    targets = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", text, re.M))
    assert targets <= set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))


def test_the_options_of_xtts_are_those_it_has() -> None:
    """JOBS.md has a line for each, with its range."""
    section = (ROOT / "docs/JOBS.md").read_text("utf-8").partition("\n## xtts\n")[2].partition("\n## ")[0]
    written = {(name, values) for name, values in re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.M)}
    ranges = {
        option.name: "true, false" if option.kind is bool else f"{option.minimum:g} to {option.maximum:g}"
        for option in OPTIONS
    }
    assert written == set(ranges.items())
    assert set(re.findall(r"`(\w\w)`", section.partition("`pt-BR`")[0])) == set(MAX_CHARS_IN)


def test_pages_name_files_that_exist() -> None:
    """Every path of the repository that a page writes as code is there."""
    missing = [
        f"{page.name}: {path}"
        for page in PAGES
        for path in re.findall(
            r"`((?:watcher|jobs|engines|files|deploy|docs|tests|examples)/[\w./-]*)`", page.read_text("utf-8")
        )
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_architecture_names_modules_that_exist() -> None:
    """There a path may begin at a room: the end of a module's path is enough."""
    page = (ROOT / "docs/ARCHITECTURE.md").read_text("utf-8")
    modules = [f"/{path.relative_to(ROOT)}" for room in PACKAGES for path in (ROOT / room).rglob("*.py")]
    named = {name for name in re.findall(r"`([\w/]+\.py)`", page) if not name.startswith("tests/")}
    assert len(named) > 40
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in modules)] == []


@pytest.mark.parametrize(
    "command", ["", "run", "submit", "status", "validate", "retry", "cancel", "engines", "doctor", "schema", "init"]
)
def test_help_is_there(command: str, environ: dict[str, str]) -> None:
    """`--help` of every command says what it does."""
    done = shell(f"voicespool {command} --help", ROOT, environ)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 4
