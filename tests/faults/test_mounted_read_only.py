"""Folders missing in a unit's `ReadWritePaths=`: each is named at the start, with its key, before any work."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.spooling import Spool


def mounted(*commands: str) -> tuple[str, ...]:
    """Words before a command that runs with other mounts, as a service of systemd does."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, for mounts of its own")
    words = ("unshare", "--mount", "sh", "-e", "-c", "; ".join((*commands, 'exec "$@"')), "sh")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounts of its own can't be made here")
    return words


def read_only(folder: object) -> str:
    return f"mount --bind '{folder}' '{folder}'; mount -o remount,ro,bind '{folder}'"


@pytest.mark.parametrize("key", ["inbox", "outbox", "state_dir"])
def test_a_folder_that_the_unit_lacks_is_named_before_a_worker_is_started(spool: Spool, key: str) -> None:
    """Also an outbox that was used before, so that nothing is rendered that can't be published."""
    spool.config["state_dir"] = str(spool.folder / "state")
    spool.drop("first.yaml")
    assert spool.once().returncode == 0
    spool.drop("second.yaml")
    folder = {"inbox": spool.inbox, "outbox": spool.outbox, "state_dir": spool.state}[key]
    spool.prefix = mounted(read_only(folder))
    held = spool.once()
    assert held.returncode == 75
    assert f"{key}: {folder} can't be written: Read-only file system" in held.stderr
    assert f"add the folder that contains `{key}` to ReadWritePaths=" in held.stderr
    assert "worker started" not in held.stderr
    spool.prefix = ()
    assert spool.once().returncode == 0
    assert spool.results() == ["first", "second"]


def test_two_mounts_of_one_file_system_are_told_before_a_claim_fails(spool: Spool) -> None:
    """Two volumes of a container, or inbox and state_dir each in `ReadWritePaths=`: files can't be renamed across."""
    spool.config["state_dir"] = str(spool.folder / "state")
    (spool.folder / "state").mkdir()
    job = spool.drop("first.yaml")
    spool.prefix = mounted(f"mount --bind '{spool.inbox}' '{spool.inbox}'")
    refused = spool.once()
    assert refused.returncode == 3
    assert "is not on the file system of the inbox" in refused.stderr
    assert "ReadWritePaths=" in refused.stderr
    assert job.exists()


def test_a_cache_folder_that_can_not_be_written_is_told_at_the_start(spool: Spool) -> None:
    """The job is still done; the cache only saves time."""
    (spool.folder / "cache").mkdir()
    spool.prefix = mounted(read_only(spool.folder / "cache"))
    spool.drop("first.yaml")
    done = spool.once(VOICESPOOL_CACHE=str(spool.folder / "cache" / "voicespool"))
    assert done.returncode == 0
    assert "the cache folder is not writable" in done.stderr
    assert f'"folder": "{spool.folder}/cache/voicespool"' in done.stderr
    assert "CacheDirectory=" in done.stderr
