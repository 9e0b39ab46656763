"""The files under deploy/, the Dockerfile and the wheel, checked as far as a machine without them allows."""

from __future__ import annotations

import configparser
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.errors import ConfigError
from watcher.cli.init import template
from watcher.config.settings import Limits, load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAM = "/opt/voicespool/bin/voicespool"
FOLDER = "/srv/voicespool"
DROP_INS = ("gpu.conf", "on-demand.conf")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed on this machine"
)


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, within a minute, and hand back what it said."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)


def unit(name: str) -> dict[str, list[tuple[str, str]]]:
    """Sections of a unit file, each a list of (key, value): keys may come more than once."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in (DEPLOY / name).read_text("utf-8").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.append((key, value))
    return sections


def value(name: str, section: str, key: str) -> str:
    """The last value of a key in a unit file."""
    return dict(unit(name)[section])[key]


def seconds(span: str) -> float:
    """A time span of systemd or Compose such as 10min, 45s or 45, in seconds."""
    number, kind = re.fullmatch(r"(\d+)(min|s|)", span).groups()  # type: ignore[union-attr]
    return float(number) * (60 if kind == "min" else 1)


def stop_grace_s() -> float:
    return Limits().stop_grace_s


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program and a working folder that exist on this machine."""
    (tmp_path / "srv").mkdir()
    folder = tmp_path / "units"
    (folder / "voicespool.service.d").mkdir(parents=True)
    for source in DEPLOY.glob("voicespool.*"):
        text = source.read_text("utf-8").replace(PROGRAM, shutil.which("true") or "/bin/true")
        (folder / source.name).write_text(text.replace(FOLDER, str(tmp_path / "srv")), "utf-8")
    return folder


def drop_in(units: Path, name: str) -> None:
    text = (DEPLOY / name).read_text("utf-8").replace(PROGRAM, shutil.which("true") or "/bin/true")
    (units / "voicespool.service.d" / name).write_text(text, "utf-8")


@needs_systemd
@pytest.mark.parametrize("drop_ins", [(), *((name,) for name in DROP_INS), DROP_INS])
def test_systemd_finds_no_fault_with_the_units(units: Path, drop_ins: tuple[str, ...]) -> None:
    """`systemd-analyze verify` is clean for service, path and timer, with and without the drop-ins."""
    for name in drop_ins:
        drop_in(units, name)
    done = run("systemd-analyze", "verify", *sorted(units.glob("voicespool.*[!d]")))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("drop_ins", [(), ("gpu.conf",)])
def test_service_is_hardened(units: Path, drop_ins: tuple[str, ...]) -> None:
    """`systemd-analyze security` gives an exposure below 2.5."""
    for name in drop_ins:
        drop_in(units, name)
    done = run("systemd-analyze", "security", "--offline=true", units / "voicespool.service")
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert level is not None, done.stdout + done.stderr
    assert float(level[1]) < 2.5


def test_service_and_program_agree_on_exit_codes_and_grace() -> None:
    """A wrong configuration is not tried again; the running chunk gets its time before anything is killed."""
    assert value("voicespool.service", "Service", "RestartPreventExitStatus") == str(ConfigError.exit_code)
    assert value("voicespool.service", "Service", "Restart") == "on-failure"
    assert value("voicespool.service", "Service", "KillMode") == "mixed"
    assert value("voicespool.service", "Service", "OOMPolicy") == "continue"
    for name in ("voicespool.service", "gpu.conf"):
        assert seconds(value(name, "Service", "TimeoutStopSec")) > stop_grace_s()


def test_start_on_demand_is_by_change_and_clock() -> None:
    """The path unit watches for changes alone (other kinds loop); path and timer start that same service."""
    assert unit("voicespool.path")["Path"] == [
        ("PathChanged", f"{FOLDER}/inbox"),
        ("Unit", "voicespool.service"),
    ]
    assert value("voicespool.timer", "Timer", "Unit") == "voicespool.service"
    assert "OnUnitInactiveSec" in dict(unit("voicespool.timer")["Timer"])
    resets = [text for key, text in unit("on-demand.conf")["Service"] if key == "ExecStart"]
    assert resets[0] == ""
    assert resets[1] == value("voicespool.service", "Service", "ExecStart") + " --until-idle"


def crontab_commands() -> list[str]:
    lines = (DEPLOY / "crontab").read_text("utf-8").splitlines()
    entries = [line.split(maxsplit=6) for line in lines if line and not re.match(r"#|[A-Z]+=", line)]
    assert [entry[:6] for entry in entries] == [["*/5", "*", "*", "*", "*", "voicespool"]]
    return [entry[6].partition(" 2>")[0] for entry in entries]


def started_commands() -> list[list[str]]:
    """Arguments of every `voicespool` that the files under deploy/ and the Dockerfile start."""
    lines = [
        text
        for name in ("voicespool.service", "on-demand.conf")
        for key, text in unit(name)["Service"]
        if key == "ExecStart" and text
    ]
    commands = [shlex.split(line) for line in lines + crontab_commands()]
    assert {command[0] for command in commands} == {PROGRAM}
    entry, default = (re.search(rf"^{word} (\[.*\])$", DOCKERFILE, re.M) for word in ("ENTRYPOINT", "CMD"))
    assert entry is not None
    assert default is not None
    return [*commands, json.loads(entry[1]) + json.loads(default[1])]


@pytest.mark.parametrize("command", started_commands(), ids=" ".join)
def test_started_commands_exist(command: list[str]) -> None:
    """Every command line that a service manager runs is one that the program knows."""
    done = run(sys.executable, "-m", "watcher.cli.main", *command[1:], "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_compose_file_fits_the_image() -> None:
    """Valid YAML; builds stages that exist; mounts the folder the image works in; waits long enough at a stop."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    for service in compose["services"].values():
        assert f" AS {service['build']['args']['VARIANT']}\n" in DOCKERFILE
        assert (DEPLOY / service["build"]["context"] / "Dockerfile").is_file()
        assert [volume.partition(":")[2] for volume in service["volumes"]] == ["/spool"]
        assert seconds(service["stop_grace_period"]) > stop_grace_s()
    assert re.findall(r"^(?:WORKDIR|VOLUME) (.*)$", DOCKERFILE, re.M)[-2:] == ["/spool", "/spool"]


@pytest.mark.parametrize("initialised", [True, False], ids=["after init", "without config.yaml"])
def test_inbox_and_state_are_on_one_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initialised: bool) -> None:
    """Both are in the working folder, which is the image's one volume and the unit's one writable folder."""
    monkeypatch.chdir(tmp_path)
    if initialised:
        Path("config.yaml").write_text(template())
    config = load()
    assert all(folder.is_relative_to(tmp_path) for folder in (config.inbox, config.state_dir, config.outbox))
    assert re.findall(r"^VOLUME (.*)$", DOCKERFILE, re.M) == re.findall(r"^WORKDIR (.*)$", DOCKERFILE, re.M)[-1:]
    for key in ("WorkingDirectory", "ReadWritePaths"):
        assert [folder for name, folder in unit("voicespool.service")["Service"] if name == key] == [FOLDER]


def copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
    return [source for line in lines for source in line.split()[:-1]]


def test_image_gets_all_it_copies() -> None:
    """Every file the Dockerfile copies exists and passes .dockerignore, and nothing else does."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    passed = [line[1:] for line in lines if line.startswith("!")]
    assert sorted(copied()) == sorted(passed)
    assert all((ROOT / source).exists() for source in copied())


def test_image_is_modest() -> None:
    """Not root, with a healthcheck; extras and version of Python are the project's own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "\nUSER voicespool\n" in last_stage
    assert "\nHEALTHCHECK " in last_stage
    extras = re.findall(r'VOICESPOOL_EXTRAS="\[?([^"\]]*)', DOCKERFILE)
    assert set(",".join(extras).split(",")) - {""} <= set(project["optional-dependencies"])
    python = re.search(r"^ARG PYTHON=(\d+\.\d+)", DOCKERFILE, re.M)
    assert python is not None
    assert project["requires-python"] == f">={python[1]}"


def healthy(status: object) -> tuple[int, str]:
    done = run(sys.executable, DEPLOY / "healthy.py", input=json.dumps(status))
    return done.returncode, done.stdout.strip()


def status(age_s: float = 1, state: str = "idle", *, running: bool = True) -> dict[str, Any]:
    return {
        "daemon": {"running": running},
        "updated_at": (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(),
        "state": state,
        "holds": [{"what": "outbox", "reason": "the outbox is not there", "since": ""}],
    }


def test_healthcheck_tells_well_from_ill() -> None:
    """Well at rest; ill without a daemon, with a stale status, on hold, or without any status to read."""
    assert healthy(status()) == (0, "healthy")
    assert healthy(status(running=False)) == (1, "no daemon has this inbox")
    started_s = time.monotonic()
    stale = re.match(r"the daemon has not written its status for (\d+) s", healthy(status(age_s=3600))[1])
    assert stale is not None
    assert 3600 <= int(stale[1]) <= 3600 + time.monotonic() - started_s + 0.5  # it is rounded
    assert healthy(status(state="hold")) == (1, "on hold: the outbox is not there")
    assert healthy([])[0] == 1


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as published, unpacked: what a clean environment holds beside the dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_the_rooms_and_nothing_else(wheel: Path) -> None:
    """Four packages, their licence, the command; no tests, no folders of a spool."""
    top = {path.name for path in wheel.iterdir()}
    assert {name for name in top if not fnmatch.fnmatch(name, "*.dist-info")} == {"watcher", "jobs", "engines", "files"}
    info = next(wheel.glob("*.dist-info"))
    assert (info / "licenses" / "LICENSE").is_file()
    scripts = configparser.ConfigParser()
    scripts.read_string((info / "entry_points.txt").read_text("utf-8"))
    assert dict(scripts["console_scripts"]) == {"voicespool": "watcher.cli.main:main"}


@pytest.mark.parametrize("command", [("init", "new"), ("schema", "job"), ("schema", "manifest")], ids=" ".join)
def test_wheel_carries_its_data(wheel: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """What the program needs at run time is inside the wheel: no checkout lies beside it."""
    environ = {**os.environ, "PYTHONPATH": str(wheel), "PYTHONSAFEPATH": "1"}
    code = "import watcher, sys; print(watcher.__file__, file=sys.stderr); from watcher.cli.main import main; main()"
    done = run(sys.executable, "-c", code, *command, cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(wheel))
