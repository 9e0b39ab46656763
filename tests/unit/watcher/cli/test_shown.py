"""Everything that people see on a terminal, at 80 and at 120 columns."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import structlog
from rich.console import RenderableType

from engines import registry
from engines.base import EngineInfo
from engines.checkpoints.base_models import BASE_MODELS
from engines.espeak.engine import Espeak
from engines.f5.engine import F5
from engines.xtts.engine import Xtts
from jobs.errors import Hold
from jobs.spool.lock import Lock
from tests import headers
from tests.hub import place, vocos_release
from tests.sounds import save, speech
from tests.spooling import PATIENCE_S, ROOT, environment
from tests.unit.watcher.cli.snapshots import WIDTHS, Terminal, compare
from watcher.cli import main, progress
from watcher.cli.commands import commands, complain
from watcher.cli.display import doctor, engines, layout, models, status, voices
from watcher.cli.help import SUMMARY_CHARS, summary
from watcher.client.follow import Followed, Follower
from watcher.client.status import Snapshot, Status
from watcher.client.submit import Dropped
from watcher.config.settings import load
from watcher.doctor.finding import Finding, fail, ok, warn
from watcher.log import configure, log
from watcher.models.pull import state
from watcher.models.voices import BuiltIn

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LONG_NAME = "radio/2026-11-21-a-name-that-is-much-longer-than-people-expect-it-to-be-in-any-list"


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """A terminal of this width, in an empty folder; no model of this machine's user is found."""
    columns = int(request.param)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TTS_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return columns


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command shows on stdout and stderr, as one terminal."""
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(sys, "stderr", terminal)
        main.answer([*arguments])
    return terminal.text()


def drawn(what: RenderableType) -> str:
    terminal = Terminal()
    layout.show(what, terminal)
    return terminal.text()


# --- help ------------------------------------------------------------------------------------------------------------


def every_command(group: click.Group = commands, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield before
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, (*before, name))
        else:
            yield (*before, name)


def command_of(words: tuple[str, ...]) -> click.Command:
    found: click.Command = commands
    for word in words:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return found


@pytest.mark.parametrize("words", [*every_command()], ids=lambda words: "-".join(words) or "voicespool")
def test_help(monkeypatch: pytest.MonkeyPatch, width: int, words: tuple[str, ...]) -> None:
    """Every command's help fits the terminal."""
    text = run(monkeypatch, *words, "--help")
    assert max(map(len, text.splitlines())) <= width
    compare(f"help/{'-'.join(words) or 'voicespool'}-{width}", text)


@pytest.mark.parametrize("words", [*filter(None, every_command())], ids="-".join)
def test_summaries_are_short_and_whole(words: tuple[str, ...]) -> None:
    """At most 50 characters, so that none is cut in the list of commands."""
    said = summary(command_of(words))
    assert said
    assert len(said) <= SUMMARY_CHARS
    assert "…" not in said


# --- status ----------------------------------------------------------------------------------------------------------


JOB = {"engine": "xtts", "started_at": "2026-11-21T11:58:00Z"}
COUNTS = {"running": 2, "queued": 3, "waiting": 1, "held": 1, "ignored": 1, "done": 4, "doubtful": 1, "failed": 1,
          "repaired": 1, "cancelled": 0, "ready": 0}  # fmt: skip


def busy(folder: Path) -> Snapshot:
    """Something of everything."""
    since, out = "2026-11-21T11:59:30Z", folder / "outbox"
    ended = {"finished_at": "2026-11-21T11:00:00Z", "source_sha256": "0" * 64, "duration_s": 61.0, "message": None}
    said: dict[str, Any] = {
        "state": "running",
        "updated_at": "2026-11-21T11:59:00Z",
        "holds": [{"what": "outbox", "reason": "the disk of /srv/outbox is full", "since": "2026-11-21T11:00:00Z"}],
        "counts": COUNTS,
        "running": [
            {**JOB, "job_id": "1", "name": "radio/hello", "chunk": 3, "chunks": 10, "eta_s": 62.5},
            {**JOB, "job_id": "2", "name": "news", "chunk": 10, "chunks": 10, "eta_s": 0},
            {**JOB, "job_id": "3", "name": "weather", "chunk": 0, "chunks": 0, "eta_s": None},
        ],
        "next": [{"job_id": "n", "name": "later", "place": 1, "priority": 5, "not_before": "2026-11-22T08:00:00Z"},
                 {"job_id": "m", "name": LONG_NAME, "place": 2, "priority": 0, "not_before": None}],
        "waiting": [{"file": "late.yaml", "reason": "it is empty", "since": since}],
        "held": [{"file": "team/locked.yaml", "reason": "it can't be read: Permission denied", "since": since}],
        "ignored": [{"file": "notes.txt", "reason": "not a job file"}],
        "results": [
            {**ended, "job_id": "a", "name": "hello", "status": "done", "folder": f"{out}/hello"},
            {**ended, "job_id": "b", "name": "b", "status": "failed", "folder": f"{out}/b.failed", "duration_s": None,
             "message": "line 3: langauge: unknown key; did you mean `language`? A second sentence makes it long."},
            {**ended, "job_id": "c", "name": "radio/c", "status": "done", "folder": f"{out}/radio/c~2",
             "verdict": "doubtful", "reasons": ["sentence 2 is far too long for its text"]},
            {**ended, "job_id": "d", "name": "d", "status": "failed", "folder": f"{out}/d.failed", "duration_s": None,
             "message": "no such speaker", "done_since": True},
        ],
        "config": {"outbox": str(out), "pending_restart": ["outbox"]},
    }  # fmt: skip
    return Snapshot(Status.read(said), {"pid": 7, "host": "box", "started_at": "2026-11-21T10:00:00Z"})


def test_status(width: int, tmp_path: Path) -> None:
    """Running, queued, waiting, held, ignored and ended jobs; a hold; a change that needs a restart."""
    text = drawn(status.status(busy(tmp_path), NOW))
    assert " 0 " not in text.partition("\n\n")[0], "counters that are zero are left out"
    compare(f"status-{width}", text)


def test_status_of_an_idle_daemon(width: int) -> None:
    """One line, and nothing that is empty."""
    idle = {"state": "idle", "counts": dict.fromkeys(COUNTS, 0), "running": []}
    daemon = {"pid": 7, "host": "box", "started_at": "2026-11-21T10:00:00Z"}
    compare(f"status-idle-{width}", drawn(status.status(Snapshot(Status.read(idle), daemon), NOW)))


def test_status_without_a_daemon(width: int) -> None:
    """Never one, and one that has stopped with jobs left."""
    stopped = {"state": "stopped", "updated_at": "2026-11-21T11:00:00Z", "counts": {"queued": 2}}
    for name, snapshot in (
        ("never", Snapshot(Status(), None)),
        (
            "stopped",
            Snapshot(
                Status.read(stopped), None, ("radio/hello.yaml", "news.yaml"), 7, unseen_folders=(("x", "denied"),)
            ),
        ),
    ):
        compare(f"status-{name}-{width}", drawn(status.status(snapshot, NOW)))


def test_what_still_runs_never_looks_finished() -> None:
    """Neither in `status --watch` nor in `submit --wait`."""
    for done in range(11):
        assert "·" in status.bar(done, 10).plain
    assert status.bar(5, 10).plain.count("━") == 10
    bar = progress._Bar()
    try:
        job = Followed(Dropped("a.yaml", "a", ""), stage="running", chunk=10, chunks=10)
        for one, is_full in ((job, False), (replace(job, stage="done"), True)):
            bar(Follower(load(), frozenset(), [one], daemon=True))
            (task,) = bar._progress.tasks
            assert (task.completed == task.total) is is_full
    finally:
        bar.close()


# --- engines, models, voices -----------------------------------------------------------------------------------------


@pytest.fixture
def infos(monkeypatch: pytest.MonkeyPatch) -> list[EngineInfo]:
    """The built-in engines: one ready, one not installed."""
    command = shlex.join([sys.executable, "-m", "pip", "install", "-e", "/srv/a checkout of voicespool[f5]"])
    return [
        replace(Espeak.info(), version="1.2.3", missing=None),
        replace(F5.info(), version=None, missing=command),
        replace(Xtts.info(), version="1.2.3", missing=None),
    ]


PYTHON = {re.escape(shlex.quote(sys.executable)): "PYTHON"}


def test_engines(width: int, infos: list[EngineInfo]) -> None:
    """A line for each; the command that installs one can be copied: it is never broken."""
    text = drawn(engines.engines(infos, registry.planned()))
    assert len([line for line in text.splitlines() if re.match(r"(espeak|f5|xtts|piper) ", line)]) == 4
    compare(f"engines-{width}", text, PYTHON)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["espeak", "f5", "xtts"])
def test_one_engine(width: int, infos: list[EngineInfo], number: int) -> None:
    """With its languages, voices and settings."""
    one = replace(infos[number], languages=infos[number].languages[:30], speakers=infos[number].speakers[:30])
    compare(f"engine-{one.name}-{width}", drawn(engines.engine(one)), PYTHON)


def test_an_unknown_engine_is_answered_with_those_there_are(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with the nearest; one that is planned with a sentence."""
    found = {name: engine for name, engine in registry.engines().items() if name in ("espeak", "f5", "xtts")}
    monkeypatch.setattr(registry, "engines", lambda: found)
    compare(f"engine-unknown-{width}", run(monkeypatch, "engines", "xtss"))
    compare(f"engine-piper-{width}", run(monkeypatch, "engines", "piper"))


def checkpoints(folder: Path) -> None:
    save_model = headers.save
    save_model(folder / "models/ana/checkpoint_900.safetensors", headers.F5, val_loss="0.25", step="900")
    save_model(folder / "models/ana/checkpoint_1000.safetensors", headers.F5, val_loss="0.5")
    save_model(folder / "models/a-speaker-with-a-long-name/a-training-run-with-a-long-name/model_last.safetensors",
               headers.F5)  # fmt: skip
    save_model(folder / "models/rui.safetensors", headers.TONE)
    for path in (folder / "models").rglob("*.safetensors"):
        path.with_name("vocab.txt").write_text(" \n" + "".join(f"{number}\n" for number in range(2544)))
    place(folder / "models/vocos-mel-24khz", vocos_release())


def test_checkpoints(width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No empty column, no broken name; one in full."""
    checkpoints(tmp_path)
    text = run(monkeypatch, "checkpoints", "list")
    assert "a-speaker-with-a-long-name/a-training-run-with-a-long-name/model_last.safetensors" in text
    assert "training " not in text
    compare(f"checkpoints-{width}", text)
    compare(f"checkpoint-{width}", run(monkeypatch, "checkpoints", "show", "ana/best"),
            {r"\d{4}-\d\d-\d\d \d\d:\d\d": "DATE"})  # fmt: skip


def test_models(width: int, tmp_path: Path) -> None:
    """Base models: here or missing, with the licence and the command."""
    place(tmp_path / "models/vocos-mel-24khz", vocos_release())
    states = [state(model, tmp_path / "models") for model in BASE_MODELS.values()]
    states[0] |= {"downloaded_bytes": 5_000_000}
    states[1] |= {"folder": str(tmp_path / "models/f5-tts-v1")}
    compare(f"models-{width}", drawn(models.models(states)))


def test_voices(width: int, tmp_path: Path) -> None:
    """Recordings with their faults, built-in voices with language and sex."""
    from watcher.models.voices import recordings

    save(tmp_path / "voices/ana.wav", speech(8.0))
    (tmp_path / "voices/ana.txt").write_text("What Ana says.")
    save(tmp_path / "voices/team/rui.flac", np.stack([speech(2.0, 44100)] * 2, axis=1), 44100)
    built_in = [
        BuiltIn(
            "espeak", ("Annie", "Denis", "Tweaky"), "", ("en", "pt", "de", "fr"), {"Annie": "female", "Denis": "male"}
        ),
        BuiltIn("mine", ("Zoe",), "", ("pt-BR",)),
        BuiltIn("xtts", (), "its voices are in the base model: `voicespool models pull xtts`"),
    ]
    found = list(recordings(load()))
    compare(f"voices-{width}", drawn(voices.voices(tmp_path / "voices", found, built_in)))


# --- doctor, log, errors ---------------------------------------------------------------------------------------------

FINDINGS = (
    ("Installation", ok("python", "3.11.7 on Linux")),
    ("Installation", ok("libraries", ", ".join(f"library-{n} 1.{n}" for n in range(12)))),
    ("Folders", warn("inbox", "500 MiB free", "Free disk space: while the disk is full, no result is published.")),
    ("Engines", warn("engine f5", "not usable here", shlex.join([sys.executable, "-m", "pip", "install", "x" * 80]))),
    ("Models", warn("model xtts", "the model XTTS-v2 is not on this machine", "Run `voicespool models pull xtts`: it "
                    "asks you to accept the licence and downloads the model.")),
)  # fmt: skip
BAD = ("Device", fail("device", "there is no GPU cuda:9", "Set `device: {name: auto}`.", 4))


@pytest.mark.parametrize("name", ["works", "fails"])
def test_doctor(width: int, name: str) -> None:
    """In groups, with a last line that says how it is."""
    chosen: list[Finding] = []
    text = ""
    for group, finding in (*FINDINGS, *([BAD] if name == "fails" else [])):
        is_first = not chosen or chosen[-1].group != group
        chosen.append(replace(finding, group=group))
        text += drawn(doctor.finding(chosen[-1], is_first=is_first))
    compare(f"doctor-{name}-{width}", text + drawn(doctor.summary(chosen)), PYTHON)


def test_every_check_of_the_real_doctor_is_in_a_group(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the last line counts them."""
    lines = run(monkeypatch, "doctor").splitlines()
    titles = [line for line in lines if not line.startswith(" ")]
    models = ["Models"] if find_spec("torch") else []  # without an engine for them none is missed
    assert titles[:-2] == ["Installation", "Folders", "Daemon", "Engines", *models, "Device"]
    counted = sum(int(number) for number in re.findall(r"\d+", titles[-1]))
    assert counted == len([line for line in lines if re.match(r"  (ok  |warn|fail)  \S", line)])


def test_log(width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a run shows it: no ids, no JSON."""
    terminal = Terminal()
    configure(terminal)
    try:
        log.info("spool starts", action="start", inbox=f"{tmp_path}/inbox", outbox=f"{tmp_path}/outbox")
        for number, name in enumerate(("hello", "broken", LONG_NAME)):
            log.info("job queued", action="claim", job_id=f"20261121T{number}", name=name)
        log.info("worker started", action="worker_started", pid=7)
        log.info("job starts", action="render", job_id="20261121T0", engine="xtts", checkpoint="ana/best")
        log.info("job done", action="done", job_id="20261121T0", name="hello", folder=f"{tmp_path}/outbox/hello",
                 duration_s=6.41)  # fmt: skip
        log.warning("job failed", action="failed", job_id="20261121T1", name="broken", duration_s=0.0,
                    folder=f"{tmp_path}/outbox/broken.failed", message="line 5: langauge: unknown key; "
                    "did you mean `language`?; line 6: priority: found the number 11")  # fmt: skip
        log.warning("job done", action="done", job_id="20261121T2", name=LONG_NAME, duration_s=61.0,
                    folder=f"/srv/outbox/{LONG_NAME}", doubts=["sentence 2 is far too long for its text"])  # fmt: skip
        log.warning("on hold", action="hold", what="outbox", reason="the disk of /srv/outbox is full",
                    hint="Free disk space there; work resumes by itself.")  # fmt: skip
        log.warning("these keys need a restart", action="reload", keys=["outbox", "inbox"])
        log.info("spool stopped", action="stop")
    finally:
        structlog.reset_defaults()
    compare(f"log-{width}", terminal.text(), {r"(?m)^\d\d:\d\d:\d\d": "HH:MM:SS"})


def test_errors(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong and what to do, in lines that fit."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    hold = Hold("the inbox /srv/voicespool/inbox is not there", "Start `voicespool run` once, or check `inbox` in "
                "config.yaml and whether its share is mounted.")  # fmt: skip
    complain(hold.message, hold.hint)
    complain("config.yaml:1: a: unknown key; available here: inbox, outbox\nconfig.yaml:9: b: must be a number", "")
    compare(f"errors-{width}", terminal.text())


def test_init(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has created, and what to do next."""
    compare(f"init-{width}", run(monkeypatch, "init", "studio"))


def test_demo(width: int, tmp_path: Path) -> None:
    """`make demo`: what came of each job, and no log line."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples/demo.py", "demo"], cwd=tmp_path, env=environment(PATH="/nowhere"),
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    command = {re.escape(str(Path(sys.executable).with_name("voicespool"))): "voicespool"}
    compare(f"demo-{width}", done.stdout, {r"\d+\.\d s of audio": "N s of audio", **command})


def test_status_and_reload_of_a_running_daemon_are_read_from_its_files(width: int, tmp_path: Path) -> None:
    """The picture of a real status.json: what is shown is in it."""
    (tmp_path / "config.yaml").write_text("")
    config = load(tmp_path / "config.yaml")
    config.state_dir.mkdir(parents=True)
    (config.state_dir / "status.json").write_text(busy(tmp_path).status.model_dump_json(by_alias=True))
    lock = Lock.acquire(config.state_dir / "lock")
    try:
        terminal = Terminal()
        from watcher.client.status import look

        layout.show(status.status(look(config), NOW), terminal)
    finally:
        lock.release()
    assert f"process {os.getpid()} on " in terminal.text()
    assert "radio/hello" in terminal.text()
