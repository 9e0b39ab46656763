"""The doctor finds what is wrong, says how to cure it, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from jobs.lock import Lock
from watcher import doctor
from watcher.config import Config, load
from watcher.doctor import Finding, as_json, examine, exit_code
from watcher.folders import prepare


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "config.yaml").write_text("")
    config = load(tmp_path / "config.yaml")
    prepare(config)
    return config


def about(findings: list[Finding], what: str) -> list[Finding]:
    return [finding for finding in findings if finding.what == what]


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_healthy_machine_is_healthy_and_stays_as_it_is(config: Config, tmp_path: Path) -> None:
    """Renames, fsync, events and leases are really tried, and nothing is left of it."""
    before = tree(tmp_path)
    findings = list(examine(config))
    assert exit_code(findings) == 0, findings
    assert {"inbox", "outbox", "claims", "events", "leases", "engine espeak"} <= {one.what for one in findings}
    assert tree(tmp_path) == before


def test_every_trouble_comes_with_a_cure(tmp_path: Path) -> None:
    """Folders that are not there, an inbox that can't be made: words, a cure and the right exit code."""
    (tmp_path / "file").write_text("")
    (tmp_path / "config.yaml").write_text("inbox: file/inbox\ndefaults: {engine: xtts}")
    findings = list(examine(load(tmp_path / "config.yaml")))
    assert exit_code(findings) == 3
    assert all(finding.cure for finding in findings if finding.level != "ok")
    assert about(findings, "inbox")[0].level == "fail"
    assert about(findings, "outbox")[0].level == "warn"
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "file"]


def test_findings_are_json_too() -> None:
    """For programs: what, level, message, cure."""
    findings = [doctor.ok("a", "b"), doctor.fail("c", "d", "e", 4)]
    value = as_json(findings)
    assert value["ok"] is False
    assert value["findings"][1] == {"what": "c", "level": "fail", "message": "d", "cure": "e"}


def test_the_gravest_failure_decides_the_exit_code() -> None:
    """Configuration before engines before the machine."""
    findings = [doctor.fail("a", "b", "c"), doctor.fail("a", "b", "c", 4), doctor.warn("a", "b", "c")]
    assert exit_code(findings) == 4
    assert exit_code([doctor.warn("a", "b", "c")]) == 0


def test_a_file_system_that_refuses_is_found(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of fsync ends neither the doctor nor stays unsaid."""

    def refuse(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(doctor, "fsync", refuse)
    findings = list(examine(config))
    assert exit_code(findings) == 75
    assert "Input/output error" in about(findings, "outbox")[0].message


def test_a_running_daemon_is_told_and_not_disturbed(config: Config) -> None:
    """Who has the inbox; and the lock stays with it."""
    lock = Lock.acquire(config.state_dir / "lock")
    try:
        assert str(os.getpid()) in about(list(examine(config)), "daemon")[0].message
        lock.check()
    finally:
        lock.release()


@pytest.mark.parametrize(
    ("torch", "level", "words"),
    [
        ("raise ImportError('libcuda.so.1: cannot open')", "warn", "libcuda.so.1"),
        ("import os; os.kill(os.getpid(), 11)", "warn", "does not work"),
        ("__version__ = '2.13.0'\nclass cuda:\n    is_available = staticmethod(lambda: False)", "ok", "2.13.0"),
    ],
)
def test_a_broken_torch_does_not_break_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, level: str, words: str
) -> None:
    """It is asked in a process of its own, and is never imported here."""
    (tmp_path / "torch.py").write_text(torch)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = about(list(doctor._torch()), "torch")
    assert [(finding.level, words in finding.message) for finding in found] == [(level, True)]
    assert "torch" not in sys.modules


def test_a_card_without_kernels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GTX 10xx under a new torch, which says that CUDA is there and fails at the first kernel."""
    (tmp_path / "torch.py").write_text(
        "__version__ = '2.15'\n"
        "class cuda:\n"
        "    is_available = staticmethod(lambda: True)\n"
        "    get_arch_list = staticmethod(lambda: ['sm_75', 'sm_80', 'sm_90a', 'sm_120', 'compute_120'])\n"
        "    device_count = staticmethod(lambda: 4)\n"
        "    get_device_capability = staticmethod([(6, 1), (8, 6), (9, 0), (12, 0)].__getitem__)\n"
        "    get_device_name = staticmethod(['GTX 1080', 'RTX 3060', 'H100', 'RTX 5090'].__getitem__)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cards = about(list(doctor._torch()), "gpu")
    assert [card.level for card in cards] == ["warn", "ok", "ok", "ok"]
    assert "GTX 1080 (sm_61): this torch has no kernels" in cards[0].message
