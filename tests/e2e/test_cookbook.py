"""docs/COOKBOOK.md, done as it says: its files are written, its commands run, and what it says comes out is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests import training_runs
from tests.e2e.test_recipes import configured, follow, voicespool
from tests.machine import machine
from tests.mounting import mount_tmpfs
from tests.recipes import recipe
from tests.sounds import recording
from tests.spooling import ROOT, Spool, environment, until
from tests.two_users import DAEMON, MEMBER, everybodys_python

PAGE = (ROOT / "docs/COOKBOOK.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.M | re.S)
PATIENCE_S = 180
COMES_OUT = "What comes out:\n\n```\n"
PROGRAM, FOLDER = "/opt/voicespool/bin/voicespool", "/srv/voicespool"
OWN_TESTS = {"Cron", "A group share"}
"""Recipes for an administrator, whose commands are not for the spool's folder."""


def sections() -> dict[str, str]:
    """Title of each recipe -> its text."""
    _, *parts = re.split(r"^## (.*)\n", PAGE, flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


RECIPES = sections()


def blocks(title: str, kind: str) -> list[str]:
    """The fenced blocks of a recipe that begin with these words, such as `sh runnable`."""
    return [text for language, name, text in BLOCK.findall(RECIPES[title]) if f"{language} {name}".strip() == kind]


def run(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run commands in a folder, with the `voicespool` under test first, and no configuration but the folder's."""
    environ = {key: value for key, value in os.environ.items() if key not in {"VOICESPOOL_CONFIG"}} | variables
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-eu", "-c", script], cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def cook(title: str, studio: Path, **variables: str) -> str:
    """Write a recipe's files, run its commands, and look for what comes out. Returns what they print."""
    for _, name, text in BLOCK.findall(RECIPES[title]):
        if "." in name:
            assert f"`{name}`" in RECIPES[title]
            (studio / name).write_text(text, "utf-8")
    done = run("\n".join(blocks(title, "sh runnable")), studio, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    promised = RECIPES[title].partition(COMES_OUT)[2].partition("```")[0].split()
    assert [path for path in promised if not (studio / path).is_file()] == []
    return done.stdout


def manifest(studio: Path, name: str) -> dict[str, Any]:
    value = json.loads((studio / "outbox" / name / "manifest.json").read_bytes())
    assert isinstance(value, dict)
    return value


@pytest.fixture
def studio(tmp_path: Path) -> Path:
    """The folder that the page's first commands make."""
    (first,) = re.findall(r"^```sh runnable\n(.*?)^```$", PAGE.partition("\n## ")[0], re.M | re.S)
    done = run(first + "pwd", tmp_path)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def test_every_recipe_is_tested_and_listed() -> None:
    """Each has a test here that names it; the contents list all of them, in order."""
    here = Path(__file__).read_text("utf-8")
    assert [title for title in RECIPES if here.count(f'"{title}"') < 1] == []
    assert re.findall(r"^- \[(.*)\]\(#", PAGE, re.M) == list(RECIPES)
    assert [title for title in RECIPES.keys() - OWN_TESTS if not blocks(title, "sh runnable")] == []


def test_game_lines(studio: Path) -> None:
    """One audio file for each row; commas, `#` and empty cells of the table are as they should be."""
    cook("Game lines from a table", studio)
    said = {name: manifest(studio, f"game/{name}")["request"] for name in ("guard_02", "smith_02")}
    assert said["guard_02"]["text"] == "Room #42, second floor."
    assert said["smith_02"]["language"] == "pt-BR"
    assert "speaker" not in said["smith_02"]


def test_two_speakers(studio: Path) -> None:
    """Each line has the speaker it names, after the pause that it asks for."""
    cook("Two speakers in one job", studio)
    first, second = manifest(studio, "dialogue")["segments"]
    assert (first["speaker"], second["speaker"]) == ("Michael", "Annie")
    assert second["start_s"] - first["end_s"] == pytest.approx(0.5, abs=0.01)


def test_an_urgent_job(studio: Path) -> None:
    """It is done before the jobs that were dropped before it, but for one that may be running already."""
    cook("An urgent job", studio)
    ended = {name: str(manifest(studio, name)["finished_at"]) for name in ("warning", *map("chapter-{}".format, "123"))}
    assert sorted(ended, key=ended.__getitem__).index("warning") <= 1


def test_a_fine_tuned_model(studio: Path, tiny_xtts: Path, tmp_path: Path) -> None:
    """From what coqui's trainer leaves to speech; the manifest names the model as the page says."""
    shutil.copytree(tiny_xtts.parent, studio / "models/xtts-v2", copy_function=os.link)
    (tmp_path / "clip.wav").write_bytes(recording())
    trained = training_runs.trainers(tiny_xtts.parent, tmp_path / "run/training")
    cook("A fine-tuned model", studio, RUN=str(trained), CLIP=str(tmp_path / "clip.wav"))
    checkpoint = manifest(studio, "greeting")["engine"]["checkpoint"]
    assert checkpoint["name"] == "anna/best_model.pth"
    assert checkpoint["step"] == training_runs.STEP
    assert checkpoint["sha256"]


def as_cron_runs(line: str) -> str:
    """The command of a line in /etc/cron.d, as cron gives it to the shell."""
    return line.split(maxsplit=6)[6].replace(r"\%", "%")


def test_cron(studio: Path) -> None:
    """As in deploy/crontab; with no more environment than cron gives, one line asks and the other one renders."""
    (render,), (submit,) = blocks("Cron", "cron render"), blocks("Cron", "cron submit")
    assert (ROOT / "deploy/crontab").read_text("utf-8").endswith(render)
    variables = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "LOGNAME": "voicespool", "HOME": str(studio)}
    for line in (submit, render.splitlines()[-1]):
        command = as_cron_runs(line).replace(PROGRAM, str(Path(sys.executable).with_name("voicespool")))
        command = command.replace(FOLDER, str(studio)).partition(" 2>&1 |")[0]
        done = subprocess.run(["/bin/sh", "-c", command], env=variables, cwd=studio, capture_output=True, text=True,
                              timeout=PATIENCE_S, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
    (folder,) = (studio / "outbox/morning").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", folder.name)
    assert (folder / f"{folder.name}.wav").is_file()


@pytest.mark.long
def test_cron_itself() -> None:
    """A real cron reads the lines and runs them as the user that they name; each minute here, or it would take five."""
    with machine("cron", "logger") as server:
        server.does("useradd", "ana")
        server.follow("group")
        mount_tmpfs(Path("/opt"), "size=1m,mode=755")
        Path("/var/run").symlink_to("/run")
        Path("/var/spool/cron/crontabs").mkdir(parents=True)
        Path(PROGRAM).parent.mkdir(parents=True)
        python = everybodys_python()
        said = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in server.variables.items())
        Path(PROGRAM).write_text(f'#!/bin/sh\n{said}exec {python.path} -m watcher "$@"\n')
        Path(PROGRAM).chmod(0o755)
        (text,) = blocks("Cron", "cron render")
        (submit,) = blocks("Cron", "cron submit")
        table = Path("/etc/cron.d/voicespool")
        table.write_text((text + submit).replace("*/5 ", "* ").replace("0 6 ", "* * "))
        with server.service("cron", "-f", "-L", "15"):
            mornings = Path(FOLDER) / "outbox/morning"
            until(lambda: list(mornings.glob("*/manifest.json")), server.log.read_text, PATIENCE_S)


@pytest.fixture
def srv() -> Iterator[Path]:
    """Stands for /srv/voicespool, where everybody may pass."""
    everybodys_python()
    with tempfile.TemporaryDirectory(prefix="vs-recipe-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "spool"


def test_the_group_share_is_that_of_operations() -> None:
    """One recipe, on two pages."""
    (made,) = blocks("A group share", "sh group")
    assert made.splitlines() == recipe("group")


def test_a_group_share(srv: Path) -> None:
    """Made as the page says; a member asks and reads, and can't change the result."""
    if shutil.which("setfacl") is None:
        pytest.skip("setfacl is not installed")
    (made,), (member,) = blocks("A group share", "sh group"), blocks("A group share", "sh member")
    follow(made.splitlines(), srv)
    (srv / "cache").mkdir()
    os.chown(srv / "cache", DAEMON.uid, DAEMON.gid)
    with serving(srv):
        told = voicespool(MEMBER, srv, *shlex.split(member.replace(FOLDER, str(srv)))[1:])
        assert told.returncode == 0, told.stderr
    result = srv / "outbox/team/hello"
    assert '"status": "done"' in MEMBER.run("cat", result / "manifest.json").stdout
    assert MEMBER.run("touch", result / "x").returncode != 0


@contextmanager
def serving(srv: Path) -> Iterator[None]:
    """The daemon, as its user and with the umask of its unit, until the end of the block."""
    python = everybodys_python()
    variables = environment(**{**python.variables, "HOME": str(srv), "VOICESPOOL_CACHE": str(srv / "cache")})
    process = subprocess.Popen(
        [*DAEMON.words, python.path, "-m", "watcher", *configured(srv), "run"],
        env=variables, umask=0o027, cwd=srv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def test_from_a_python_script(studio: Path) -> None:
    """It prints where the audio is; a job that fails is an error with the reason."""
    printed = cook("From a Python script", studio)
    assert soundfile.info(studio / printed.strip()).duration > 0.5
    (commands,) = blocks("From a Python script", "sh runnable")
    (studio / "say.py").write_text(
        (studio / "say.py").read_text("utf-8").replace('language="en"', 'language="en", priority=11'), "utf-8"
    )
    failed = run(commands.replace("python3", "! python3"), studio)
    assert "RuntimeError: " in failed.stderr
    assert "priority" in failed.stderr


def test_mp3(studio: Path) -> None:
    """As long as the WAV, and smaller."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    cook("MP3", studio)
    made, wav = studio / "story.mp3", studio / "outbox/story/story.wav"
    assert soundfile.info(made).duration == pytest.approx(soundfile.info(wav).duration, abs=0.1)
    assert made.stat().st_size < wav.stat().st_size / 2


def test_subtitles(studio: Path) -> None:
    """They are those that the page shows."""
    cook("Subtitles", studio)
    (shown,) = blocks("Subtitles", "srt")
    assert (studio / "tale.srt").read_text("utf-8").strip() == shown.strip()


def test_subtitles_of_a_long_text(spool: Spool, tmp_path: Path) -> None:
    """Where the chunks are in a file of their own, all are found."""
    (script,) = blocks("Subtitles", "python srt.py")
    (tmp_path / "srt.py").write_text(script, "utf-8")
    spool.drop("long.yaml", f"engine: instant\ntext: {'Yes. ' * 501}\n")
    assert spool.once().returncode == 0
    printed = run(f"python3 srt.py {shlex.quote(str(spool.result('long')))}", tmp_path).stdout
    assert printed.count(" --> ") == 501
    assert printed.count("\nYes.\n") == 501


def test_cancel_and_retry(studio: Path) -> None:
    """The cancelled job is not rendered; the failed one says what the page says, and is done once it is corrected."""
    printed = cook("Cancel and retry", studio)
    said = "line 2: langauge: unknown key; did you mean `language`?"
    assert said in RECIPES["Cancel and retry"]
    assert said in printed
    assert not (studio / "outbox/old-news").exists()
