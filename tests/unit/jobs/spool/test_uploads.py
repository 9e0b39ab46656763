"""Recordings that submit brings for one job: gone with its claim, and nothing else goes with them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jobs.spool import uploads
from tests.in_process import Desk


def bring(at: Desk, folder: str = "radio") -> Path:
    """An upload folder with a recording and its transcript."""
    upload = at.inbox / folder / uploads.new_folder()
    upload.mkdir(parents=True)
    (upload / "ana.wav").write_bytes(b"RIFF")
    (upload / "ana.txt").write_text("What Ana says.")
    return upload


def job(*recordings: str) -> str:
    return json.dumps({"text": "hello", "speaker_wav": recordings})


def test_the_folder_goes_with_the_claim_and_the_job_has_its_copies(at: Desk) -> None:
    """Recording and transcript are the job's by then; the folder that the job lies in stays."""
    upload = bring(at)
    at.drop("radio/hello.yaml", job(f"{upload.name}/ana.wav"))
    (ticket,) = at.take("radio/hello.yaml")
    assert os.listdir(at.inbox / "radio") == []
    claim = at.opened.store.recover(ticket.job_id, 1 << 20)
    assert claim is not None
    assert list(claim.transcripts.values()) == ["What Ana says."]
    assert [path.read_bytes() for path in claim.folder.recordings.iterdir()] == [b"RIFF"]
    outcome = at.process(ticket)
    assert outcome is not None
    assert outcome.status == "done"


def test_after_a_crash_between_claim_and_removal_the_next_daemon_removes_it(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = bring(at)
    at.drop("radio/hello.yaml", job(f"{upload.name}/ana.wav"))
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "remove", lambda *_: None)
        at.take("radio/hello.yaml")
    assert upload.is_dir()
    at.close()
    (ticket,) = at.resume()
    assert not upload.exists()
    outcome = at.process(ticket)
    assert outcome is not None
    assert outcome.status == "done"


def test_nothing_of_anybody_else_is_removed(at: Desk, tmp_path: Path) -> None:
    """Recordings next to a job or in folders of other names, folders behind a link, what lies deeper."""
    elsewhere, link = tmp_path / "elsewhere", at.inbox / uploads.new_folder()
    elsewhere.mkdir()
    link.symlink_to(elsewhere)
    own = [at.inbox / "ana.wav", at.inbox / "takes/ana.wav", at.inbox / ".voicespool-upload-1/ana.wav"]
    deep = at.inbox / uploads.new_folder() / "deeper/ana.wav"
    for path in (*own, deep, elsewhere / "ana.wav"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"RIFF")
    names = [str(path.relative_to(at.inbox)) for path in (*own, deep)]
    at.drop("hello.yaml", job(*names, f"{link.name}/ana.wav"))
    at.take("hello.yaml")
    for path in (*own, deep, elsewhere / "ana.wav"):
        assert path.read_bytes() == b"RIFF"
    assert link.is_symlink()


def test_what_another_user_has_brought_stays(at: Desk) -> None:
    """A job that names the folder of somebody else's upload does not take it away."""
    if os.geteuid() != 0:
        pytest.skip("needs two users: root")
    upload = bring(at, ".")
    os.chown(upload, 65534, 65534)
    at.drop("hello.yaml", job(f"{upload.name}/ana.wav"))
    at.take("hello.yaml")
    assert sorted(os.listdir(upload)) == ["ana.txt", "ana.wav"]


def test_a_file_of_several_jobs_leaves_it(at: Desk) -> None:
    """The recording may be another document's too."""
    upload = bring(at, ".")
    name = f"{upload.name}/ana.wav"
    at.drop("hello.yaml", f"{job(name)}\n---\n{job(name)}\n")
    assert len(at.take("hello.yaml")) == 2
    assert upload.is_dir()
