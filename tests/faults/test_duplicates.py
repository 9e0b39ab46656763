"""A sync client that puts a claimed file back unchanged: `ready.on_duplicate`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.spooling import Spool, until

OLD_NS = 1_700_000_000_123_456_789


def put_back(spool: Spool, name: str, text: str = "text: Good morning.\n") -> Path:
    """Write the file as sync clients do: under another name, with its old times, then renamed."""
    scratch = spool.folder / "scratch"
    scratch.write_text(text)
    os.utime(scratch, ns=(OLD_NS, OLD_NS))
    path = spool.inbox / name
    os.rename(scratch, path)
    return path


def skipped(spool: Spool) -> dict[str, str]:
    waiting = {entry["file"]: entry["reason"] for entry in spool.status()["waiting"]}
    return {file: reason for file, reason in waiting.items() if reason.startswith("skipped: ")}


def test_a_file_that_comes_back_is_rendered_again_and_the_result_the_log_and_the_status_say_so(spool: Spool) -> None:
    """Also after a kill of the daemon. A file that was saved again, or has another name, is no duplicate."""
    spool.start()
    put_back(spool, "a.yaml")
    assert spool.manifest("a")["warnings"] == []
    spool.stop(signal.SIGKILL)
    spool.start()
    put_back(spool, "a.yaml")
    (warning,) = spool.manifest("a~2")["warnings"]
    assert warning.startswith("The same file, with the same modification time, was claimed at ")
    assert "ready.on_duplicate" in warning
    until(lambda: [end["message"] for end in spool.status()["results"]][-1:] == [warning], "the status says so")
    assert (spool.lines("done")[-1]["level"], spool.lines("done")[-1]["message"]) == ("warning", warning)
    spool.drop("a.yaml")
    put_back(spool, "b.yaml")
    put_back(spool, "c.yaml", "---\ntext: One.\n---\ntext: Two.\n")
    for name in ("a~3", "b", "c-1", "c-2"):
        assert spool.manifest(name)["warnings"] == []
    put_back(spool, "c.yaml", "---\ntext: One.\n---\ntext: Two.\n")
    for name in ("c-1~2", "c-2~2"):
        assert spool.manifest(name)["warnings"]
    assert spool.stop() == 0


def test_a_file_that_comes_back_is_left_alone_if_the_configuration_says_so(spool: Spool) -> None:
    """It stays in the inbox and blocks nothing; the status has the reason. A changed file is rendered."""
    spool.config["ready"] |= {"on_duplicate": "skip"}
    put_back(spool, "a.yaml")
    assert spool.once().returncode == 0
    path = put_back(spool, "a.yaml")
    assert spool.once().returncode == 0
    assert spool.results() == ["a"]
    spool.start()
    until(lambda: "a.yaml" in skipped(spool), "the status says why it waits")
    assert skipped(spool)["a.yaml"].endswith("(ready.on_duplicate: skip)")
    assert len(spool.lines("skip")) == 1
    put_back(spool, "b.yaml")
    assert spool.manifest("b")["warnings"] == []
    assert path.exists()
    spool.drop("a.yaml")
    assert spool.manifest("a~2")["warnings"] == []
    put_back(spool, "b.yaml")
    until(lambda: "b.yaml" in skipped(spool), "the other file is back too")
    spool.config["ready"] |= {"on_duplicate": "render"}
    spool.write_config()
    assert spool.process is not None
    spool.process.send_signal(signal.SIGHUP)
    assert spool.manifest("b~2")["warnings"]
    assert spool.stop() == 0


def test_whoever_tries_a_failed_job_again_is_never_taken_for_a_sync_client(spool: Spool) -> None:
    """Moved back from its result, by hand or by `retry`, it runs every time."""
    spool.config["ready"] |= {"on_duplicate": "skip"}
    spool.start()
    put_back(spool, "a.yaml", "txt: a wrong key\n")
    spool.result("a.failed")
    for number in (2, 3):
        before = "a.failed" if number == 2 else f"a.failed~{number - 1}"
        os.rename(spool.outbox / before / "a.yaml", spool.inbox / "a.yaml")
        spool.result(f"a.failed~{number}")
    assert spool.command("retry", "a").returncode == 0
    assert spool.manifest("a.failed~4")["warnings"] == []
    assert spool.stop() == 0
