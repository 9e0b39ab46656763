"""config.yaml read again: what takes effect at once is used at once, and the documentation has every key."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines import registry
from jobs.errors import Hold
from jobs.spool.recordings import Snapshots
from tests.spooling import PLUGINS, ROOT
from watcher.config.reread import NEEDS_RESTART, ConfigRead, changed_keys, until_restart
from watcher.config.settings import Config, Section, load
from watcher.daemon.events import Events
from watcher.daemon.session import Session

OTHER = """
models: other-models
allowed_roots: [/somewhere]
transcribe: whisper
defaults: {engine: instant, language: pt-BR, seed: 5, priority: 1, timeout_s: 9}
ready: {quiet_s: 7, network_quiet_s: 8, unparsable_grace_s: 9, companions_s: 11, scan_s: 12, on_duplicate: skip}
limits:
  {job_file_bytes: 1001, text_chars: 1002, documents: 103, recording_bytes: 1004, recordings: 15, recording_uses: 1006,
   job_bytes: 1007, speaker_text_chars: 1008, audio_s: 1009, render_s: 1010, read_s: 11, free_bytes: 1012, attempts: 2,
   retry_delays_s: [5], daemon_deaths: 4, stall_s: 14, jobs_in_flight: 3, stop_grace_s: 15, preempt: false,
   affinity_s: 16}
device: {name: cpu, precision: bfloat16, profile: low_vram, idle_s: 17, fallback_cpu: true}
results: {on_existing: replace, mode: "0640", group: 0}
"""


def keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every key, dotted."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from keys(kind, f"{name}.")
        else:
            yield f"{prefix}{name}"


def table() -> dict[str, str]:
    """Key -> when it takes effect, as docs/OPERATIONS.md has it."""
    text = (ROOT / "docs/OPERATIONS.md").read_text("utf-8").partition("### Reading it again")[2].partition("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {key: when for names, when, *_ in rows for key in re.findall(r"`([^`]+)`", names)}


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test engines."""
    monkeypatch.syspath_prepend(PLUGINS)
    registry.engines.cache_clear()
    yield
    registry.engines.cache_clear()


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """Two configurations that differ in everything but the folders that need a restart."""
    for name in ("voices", "models"):
        (tmp_path / name).mkdir()
    plain, other = tmp_path / "plain.yaml", tmp_path / "other.yaml"
    plain.write_text("defaults: {engine: faulty}\n")
    other.write_text(OTHER)
    return plain, other


def test_the_table_in_the_documentation_has_every_key_once() -> None:
    """And says of each what the daemon does."""
    said = table()
    assert sorted(said) == sorted(keys(Config))
    assert {key for key, when in said.items() if when == "restart"} == set(NEEDS_RESTART)


def test_changed_keys_are_named(paths: tuple[Path, Path]) -> None:
    """All that takes effect at once, and what waits for a restart stays as it is."""
    plain, other = map(load, paths)
    moved = other.model_copy(update={"outbox": Path("/elsewhere")})
    read = ConfigRead.of(moved, plain, 0.0)
    assert read.pending_restart == ("outbox",)
    assert until_restart(moved, plain) == other
    later = {key for key, when in table().items() if when == "not available"}
    unset = {"defaults.speaker", "defaults.speaker_wav", "defaults.speaker_text", "defaults.checkpoint",
             "defaults.on_checkpoint_error", "defaults.settings", "defaults.output"}  # fmt: skip
    assert set(read.changed) == set(keys(Config)) - set(NEEDS_RESTART) - later - unset, "this test changes every key"
    assert list(changed_keys(plain, plain)) == []


def test_after_a_reload_a_session_is_what_one_opened_anew_would_be(paths: tuple[Path, Path]) -> None:
    """Nothing of an inbox in use remembers the configuration of before."""
    plain, other = map(load, paths)
    events = Events()
    try:
        session = Session.open(plain, events)
        session.open_outbox()
        before = held_by(session)
        session.reload(other)
        reloaded = held_by(session)
        session.close()
        anew = Session.open(other, events)
        anew.open_outbox()
        assert reloaded == held_by(anew)
        assert reloaded != before
        anew.close()
    finally:
        events.close()


def test_an_inbox_that_can_not_be_opened_leaves_nothing_open(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is on hold it is tried again every few seconds."""
    plain, before = load(paths[0]), len(os.listdir("/proc/self/fd"))

    def refused(_snapshots: Snapshots) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Snapshots, "sweep", refused)
    events = Events()
    try:
        with pytest.raises(Hold):
            Session.open(plain, events)
    finally:
        events.close()
    assert len(os.listdir("/proc/self/fd")) == before


def held_by(session: Session) -> dict[str, Any]:
    """All that the parts of a session take from the configuration."""
    assert session.spool.outbox is not None
    settings = session.spool.settings
    return {
        "config": session.config,
        "spool": {**plain_values(settings), "rules": plain_values(settings.rules)},
        "snapshots": session.spool.snapshots.places(),
        "outbox": session.spool.outbox.policy(),
        "places": session.arrivals.readiness.places(),
        "policy": session.arrivals.readiness.policy(),
        "patience_s": session.schedule.patience_s(),
    }


def plain_values(part: object) -> dict[str, Any]:
    """Public attributes that can be compared, by name."""
    names = [name for name in getattr(part, "__slots__", ()) or vars(part) if not name.startswith("_")]
    return {name: getattr(part, name) for name in names if name not in {"engines", "token"}}
