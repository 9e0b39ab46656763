"""`voicespool doctor`: checks the machine. It changes nothing and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engines import installing
from engines.checkpoints import inspection
from engines.checkpoints.base_models import BASE_MODELS, BIGVGAN, BaseModel, candidate_folders, dependents, require
from engines.checkpoints.inspection import Checkpoint
from engines.errors import EngineMissing
from engines.registry import engines
from engines.whisper import transcripts
from files import cache, mounts
from files.durable import fsync
from files.opens import is_being_written
from files.printable import printable
from jobs.errors import ConfigError, SpoolError
from jobs.spool import lock, state
from watcher.config import folders
from watcher.config.job_rules import job_rules
from watcher.config.settings import Config
from watcher.daemon.events import Events
from watcher.doctor import torch_findings
from watcher.doctor.finding import Finding, fail, ok, warn
from watcher.models.checkpoints import as_here

LIBRARIES = ("pydantic", "PyYAML", "structlog", "watchdog", "numpy", "soundfile", "sentencex", "espeakng-loader")
FREE_BYTES = 1 << 30
WATCHES = 8192
EVENT_WAIT_S = 2.0
_AS_THE_DAEMON = "Run the doctor as the daemon's user."


def examine(config: Config) -> Iterator[Finding]:
    """Check everything, one finding after the other, group by group."""
    for group, findings in (
        ("Installation", _installation(config)),
        ("Folders", _folders(config)),
        ("Daemon", _daemon(config)),
        ("Engines", _engines(config)),
        ("Models", _all_models(config)),
        ("Device", torch_findings.examine(config.device)),
    ):
        for finding in findings:
            yield replace(finding, group=group)


def exit_code(findings: list[Finding]) -> int:
    """0, or the code of the gravest failure: configuration, then engines, then the machine."""
    return min((finding.exit_code for finding in findings if finding.level == "fail"), default=0)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """All findings as one object for JSON."""
    lines = [{key: value for key, value in asdict(finding).items() if key != "exit_code"} for finding in findings]
    healthy = not any(finding.level == "fail" for finding in findings)
    return {"ok": healthy, "findings": lines}


def _installation(config: Config) -> Iterator[Finding]:
    yield ok("python", f"{platform.python_version()} on {platform.platform()}, user id {os.geteuid()}")
    yield from _libraries()
    yield from _configuration(config)


def _folders(config: Config) -> Iterator[Finding]:
    yield from _folder("inbox", config.inbox)
    yield from _folder("outbox", config.outbox)
    yield from _read_only("voices", config.voices)
    yield from _read_only("models", config.models)
    if config.inbox.is_dir():
        yield from _state(config)
    yield from _cache()
    yield from _watches()


def _all_models(config: Config) -> Iterator[Finding]:
    yield from _base_models(config)
    if config.transcribe == "whisper":
        yield _whisper(config)
    yield from _models(config)


def _libraries() -> Iterator[Finding]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield fail("libraries", f"{name} is not installed", installing.for_package(name), 4)
    yield ok("libraries", ", ".join(found))


def _configuration(config: Config) -> Iterator[Finding]:
    try:
        job_rules(config)
    except SpoolError as error:
        yield fail("configuration", error.message, error.hint, error.exit_code)
    else:
        yield ok("configuration", f"default engine {config.defaults.engine}, language {config.defaults.language}")


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(what: str, folder: Path) -> Iterator[Finding]:
    shown = printable(folder)
    if not folder.is_dir():
        yield from _not_there(what, folder)
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield fail(what, f"{shown} can't be read and written by this user", "Change its owner or permissions.")
        return
    kind = mounts.kind(folder) or "unknown file system"
    where = "network" if mounts.is_network(folder) else "local"
    free = shutil.disk_usage(folder).free
    yield from _scratch(what, folder, f"{shown} ({kind}, {where}, {free >> 30} GiB free)", _writes)
    if free < FREE_BYTES:
        yield warn(what, f"{free >> 20} MiB free", "Free disk space: while the disk is full, no result is published.")
    if what == "inbox" and where == "network":
        yield warn(
            what,
            "changes by other machines raise no file events; the daemon scans the inbox",
            f"Nothing to do: the daemon finds files within ready.scan_s. {kind} must support file locks, so that only "
            "one daemon uses the inbox.",
        )


def _not_there(what: str, folder: Path) -> Iterator[Finding]:
    above = next(parent for parent in folder.parents if os.path.exists(parent))
    if above.is_dir() and os.access(above, os.W_OK):
        yield warn(
            what, f"{printable(folder)} does not exist yet", "The first `voicespool run` creates it; `mkdir` does too."
        )
    else:
        yield fail(
            what,
            f"{printable(folder)} does not exist and can't be created in {printable(above)}",
            f"Create it by hand, or set `{what}` in config.yaml to another folder.",
            3,
        )


def _read_only(what: str, folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        yield ok(what, f"{printable(folder)} does not exist; jobs that name a file in it fail")
    elif os.access(folder, os.R_OK | os.X_OK):
        yield ok(what, printable(folder))
    else:
        yield fail(what, f"{printable(folder)} can't be read by this user", "Change its owner or permissions.")


def _scratch(what: str, folder: Path, message: str, probe: Callable[[Path], Iterator[Finding]]) -> Iterator[Finding]:
    """Try something in a hidden folder of our own, which the daemon ignores."""
    try:
        with tempfile.TemporaryDirectory(prefix=".voicespool-doctor-", dir=folder) as scratch:
            findings = list(probe(Path(scratch)))
    except OSError as error:
        yield fail(what, f"{message}: {error.strerror}", "Fix the file system, or choose another folder.")
    else:
        yield from findings or [ok(what, message)]


def _writes(scratch: Path) -> Iterator[Finding]:
    """Write, force to disk, rename file and folder: OSError when one of them does not work."""
    (scratch / "a").write_bytes(b"x")
    fsync(scratch / "a")
    (scratch / "a").rename(scratch / "b")
    (scratch / "result").mkdir()
    (scratch / "b").rename(scratch / "result" / "b")
    (scratch / "result").rename(scratch / "published")
    fsync(scratch)
    yield from ()


def _state(config: Config) -> Iterator[Finding]:
    """The spool's own folder, which no other user may create or write in."""
    if os.path.lexists(config.state_dir):
        try:
            state.check(config.state_dir)
            folders.same_file_system(config)
        except ConfigError as error:
            yield fail("state", error.message, error.hint, error.exit_code)
            return
        except OSError as error:
            yield fail("state", f"{printable(config.state_dir)} can't be read: {error.strerror}", _AS_THE_DAEMON)
            return
        yield from _claims(config, config.state_dir)
    elif not config.state_dir.parent.is_dir():
        yield from _not_there("state_dir", config.state_dir)
        return
    else:
        yield from _claims(config, config.inbox)
    if danger := folders.exposed(config):
        yield warn("state", danger, folders.EXPOSED_CURE)
    else:
        yield ok("state", f"{printable(config.state_dir)}, not writable by other users")


def _claims(config: Config, state: Path) -> Iterator[Finding]:
    if config.outbox.is_dir() and os.stat(config.outbox).st_dev != os.stat(config.inbox).st_dev:
        yield ok("outbox", "on another file system than the inbox, which is allowed")
    yield from _scratch("claims", config.inbox, "", lambda scratch: _claim(scratch, state))
    yield from _scratch("events", config.inbox, "", _events)
    yield from _scratch("leases", config.inbox, "", _leases)


def _claim(scratch: Path, state: Path) -> Iterator[Finding]:
    """One rename from the inbox into the state folder."""
    (scratch / "job").write_bytes(b"x")
    try:
        with tempfile.TemporaryDirectory(prefix=".voicespool-doctor-", dir=state) as claimed:
            (scratch / "job").rename(Path(claimed) / "original")
    except OSError as error:
        yield fail(
            "claims", f"a rename into {printable(state)} fails: {error.strerror}", "Check its owner and permissions."
        )
    else:
        yield ok("claims", "claiming a job file is one rename")


def _events(scratch: Path) -> Iterator[Finding]:
    """Whether a file moved in raises an event."""
    (scratch / "inbox").mkdir()
    (scratch / "job").write_bytes(b"x")
    events = Events()
    try:
        events.watch(scratch / "inbox")
        (scratch / "job").rename(scratch / "inbox" / "job")
        arrived = _within(EVENT_WAIT_S, lambda: bool(events.take().moved))
        trouble = events.trouble
    finally:
        events.close()
    if arrived:
        yield ok("events", "the daemon notices a file moved into the inbox at once")
    else:
        cure = "Raise fs.inotify.max_user_watches and max_user_instances; until then the daemon scans the inbox."
        yield warn("events", trouble or f"no file event within {EVENT_WAIT_S:g} s", cure)


def _within(limit_s: float, happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _leases(scratch: Path) -> Iterator[Finding]:
    """Whether the system reports that a file is still open for writing."""
    with (scratch / "job").open("wb") as writer, (scratch / "job").open("rb") as reader:
        told = is_being_written(reader.fileno()) is True
        writer.close()
        told = told and is_being_written(reader.fileno()) is False
    if told:
        yield ok("leases", "the daemon sees that a file is still open for writing")
    else:
        yield warn(
            "leases",
            "the system does not report that a file is still open for writing; the quiet time decides",
            "Let clients move files into the inbox by rename, or raise ready.quiet_s for slow writers.",
        )


# --- the rest --------------------------------------------------------------------------------------------------------


def _watches() -> Iterator[Finding]:
    limit = _number(Path("/proc/sys/fs/inotify/max_user_watches"))
    instances = _number(Path("/proc/sys/fs/inotify/max_user_instances"))
    if limit is None:
        yield ok("inotify", "this system has no limits")
    elif limit < WATCHES:
        yield warn(
            "inotify",
            f"at most {limit} watches",
            "For an inbox of many folders: `sysctl fs.inotify.max_user_watches=65536`.",
        )
    else:
        yield ok("inotify", f"at most {limit} watches, {instances} instances")


def _cache() -> Iterator[Finding]:
    if folder := cache.unusable():
        yield warn("cache", f"{printable(folder)} can't be written", cache.CURE)


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _daemon(config: Config) -> Iterator[Finding]:
    try:
        holder = lock.holder(config.state_dir / "lock")
    except PermissionError:
        yield warn("daemon", "this user can't see whether one is running", _AS_THE_DAEMON)
        return
    if holder is None:
        yield ok("daemon", "not running for this inbox")
    else:
        pid, host = printable(holder.get("pid"), 20), printable(holder.get("host"), 80)
        yield ok("daemon", f"process {pid} on {host} uses this inbox")
    address = os.environ.get("NOTIFY_SOCKET")
    yield ok("systemd", "readiness is sent to NOTIFY_SOCKET" if address else "this command was not started by systemd")


def _engines(config: Config) -> Iterator[Finding]:
    for name, engine in engines().items():
        info = engine.info()
        if info.missing is None:
            yield ok(f"engine {name}", printable(f"{info.library} {info.version or ''}".strip()))
        elif name == config.defaults.engine:
            yield fail(f"engine {name}", "the default engine is not usable here", printable(info.missing), 4)
        else:
            yield warn(f"engine {printable(name, 60)}", "not usable here", printable(info.missing))


def _base_models(config: Config) -> Iterator[Finding]:
    """Of engines that are installed: without its base model, only jobs with a complete model of their own work."""
    running = {name for name, engine in engines().items() if engine.info().missing is None}
    for name, model in BASE_MODELS.items():
        if not running.isdisjoint({name, *(other.name for other in dependents(model))}):
            yield _base_model(model, config)


def _base_model(model: BaseModel, config: Config) -> Finding:
    try:
        return ok(f"model {model.name}", f"{model.title} in {printable(require(model.name, config.models))}")
    except EngineMissing as error:
        return warn(f"model {model.name}", printable(error.message, 400), error.hint)


def _whisper(config: Config) -> Finding:
    try:
        return ok("model whisper", f"Whisper in {printable(transcripts.model(config.models))}")
    except EngineMissing as error:
        return fail("model whisper", printable(error.message, 400), error.hint, 4)


def _models(config: Config) -> Iterator[Finding]:
    """The models under models/ that jobs can name, by the headers of the files: no Whisper, no vocoder."""
    there = [as_here(one, config) for one in inspection.survey(config.models)] if config.models.is_dir() else []
    others = (transcripts.WHISPER.architecture, BIGVGAN.architecture)
    found = [one for one in there if not one.architecture.startswith(others)]
    yield from _checkpoints(found, config)
    is_needed = any(one.variant is not None and one.variant.vocoder == BIGVGAN.name for one in found)
    if is_needed or any(candidate_folders(BIGVGAN, config.models)):
        yield _base_model(BIGVGAN, config)


def _checkpoints(found: Sequence[Checkpoint], config: Config) -> Iterator[Finding]:
    """Whether they will load."""
    broken = [printable(os.path.relpath(one.path, config.models), 100) for one in found if not one.loads]
    if broken:
        names = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
        cure = "`voicespool checkpoints list` says why, and what to do."
        yield warn("checkpoints", f"{len(broken)} of {len(found)} model files do not load: {names}", cure)
    elif found:
        yield ok("checkpoints", f"{len(found)} model files; by their headers all of them load")
