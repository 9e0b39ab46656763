"""Dropping: complete at once, never over another file, and only where a job can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.errors import Hold
from jobs.spool.places import Places
from tests.manifests import manifest, source
from watcher.client.drop import cancel, checked_name, drop
from watcher.client.submit import Refused, failed, name_from, submit_file, text_job
from watcher.client.validate import check
from watcher.config.job_rules import job_rules
from watcher.config.settings import Config, load


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "config.yaml").write_text("")
    config = load(tmp_path / "config.yaml")
    config.inbox.mkdir()
    config.outbox.mkdir()
    return config


def files(folder: Path) -> list[str]:
    """All files under a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize(
    ("name", "checked"),
    [("hello", "hello"), ("radio/news", "radio/news"), ("hello.yaml", "hello"), ("olá 👋", "olá 👋"), ("a//b", "a/b")],
)
def test_names_that_a_job_can_have(name: str, checked: str) -> None:
    """Folders, any script; a job file's extension is taken off."""
    assert checked_name(name) == checked


@pytest.mark.parametrize(
    "name",
    ["", "/etc/x", "../x", "a/../x", "..", "a/", "x\n", "x\x1b[2J", "a\udcff", ".hidden", ".voicespool/x", "~$x",
     "defaults", "x.sync-conflict-1", "@eaDir/x", "x" * 250, ".yaml"],
)  # fmt: skip
def test_names_that_no_job_can_have(name: str) -> None:
    """Names that lead out, that hide, that forge, that the spool leaves alone, that are too long."""
    with pytest.raises(ValueError, match=r"[a-z]"):
        checked_name(name)


def test_a_name_that_is_taken_gets_a_number(config: Config) -> None:
    """A waiting file is never overwritten, and nothing half-made stays."""
    dropped = [drop(config.inbox, "radio/hello", ".yaml", data) for data in (b"1", b"2", b"3")]
    assert dropped == ["radio/hello.yaml", "radio/hello-2.yaml", "radio/hello-3.yaml"]
    assert [(config.inbox / source).read_bytes() for source in dropped] == [b"1", b"2", b"3"]
    assert files(config.inbox) == sorted(dropped)


def test_a_dangling_link_of_that_name_counts_as_taken(config: Config) -> None:
    """Nothing is written through it."""
    (config.inbox / "hello.yaml").symlink_to(config.outbox / "elsewhere")
    assert drop(config.inbox, "hello", ".yaml", b"1") == "hello-2.yaml"
    assert files(config.outbox) == []


def test_a_folder_that_leads_out_of_the_inbox_is_refused(config: Config) -> None:
    """A link in the inbox does not let a name out of it."""
    (config.inbox / "out").symlink_to(config.outbox)
    with pytest.raises(Hold, match="leads out of the inbox"):
        drop(config.inbox, "out/hello", ".yaml", b"1")
    assert files(config.outbox) == []


def test_without_an_inbox_nothing_is_made(tmp_path: Path) -> None:
    """An unmounted share is not replaced by a folder of ours."""
    with pytest.raises(Hold, match="is not there"):
        drop(tmp_path / "inbox", "hello", ".yaml", b"1")
    assert os.listdir(tmp_path) == []


def test_where_renames_can_not_keep_from_overwriting_links_do(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old C library has no renameat2."""
    monkeypatch.setattr("ctypes.CDLL", lambda *_args, **_options: object())
    assert drop(config.inbox, "hello", ".yaml", b"1") == "hello.yaml"
    assert drop(config.inbox, "hello", ".yaml", b"2") == "hello-2.yaml"
    assert files(config.inbox) == ["hello-2.yaml", "hello.yaml"]


def test_cancelling_twice_is_cancelling(config: Config) -> None:
    """The file that asks for it is there already."""
    cancel(config.inbox, "radio/hello")
    cancel(config.inbox, "radio/hello")
    assert files(config.inbox) == ["radio/hello.cancel"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Olá, este é um teste de síntese.", "olá-este-é-um-teste-de-síntese"),
        ("…!?", "text"),
        ("../../etc/passwd", "etc-passwd"),
        ("x" * 500, "x" * 40),
        ("\x1b[2Jhello", "2jhello"),
    ],
)
def test_a_text_names_its_job(text: str, name: str) -> None:
    """By its first words, always a name that a job can have."""
    assert name_from(text) == name
    assert checked_name(name) == name


def test_a_text_becomes_a_job_that_says_the_same(config: Config, tmp_path: Path) -> None:
    """Texts that look like YAML, numbers or numbers of the clock stay texts."""
    rules = job_rules(config)
    for text in (
        "no",
        "12:30",
        "- a\n- b",
        "a: b # c",
        "it's",
        'a"',
        "line\nline\n",
        "{x}",
        "!!x",
        "x\u2028\x7f\x1b\x85y",
        "1e3",
        "~ x",
    ):
        path = tmp_path / "job.yaml"
        path.write_bytes(text_job({"text": text, "language": "no", "speaker": None, "settings": {}}))
        (document,) = check(path, config, rules).documents
        assert document.problems == ()
        assert document.spec is not None
        assert (document.spec.text, document.spec.language) == (text, "no")


def write_job(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_recordings_beside_the_file_go_with_it(config: Config, tmp_path: Path) -> None:
    """With their transcripts, in their own subfolders, beside the job; the spool finds them there."""
    job = write_job(tmp_path / "mine", "hello.yaml", "text: x\nspeaker_wav: [takes/ana.wav, house.wav]\n")
    write_job(tmp_path / "mine/takes", "ana.wav", "RIFF")
    write_job(tmp_path / "mine/takes", "ana.txt", "What Ana says.")
    write_job(config.voices, "house.wav", "RIFF")
    checked = check(job, config, job_rules(config))
    assert checked.problems == ()
    submit_file(config, checked, "radio/hello")
    assert files(config.inbox) == ["radio/hello.yaml", "radio/takes/ana.txt", "radio/takes/ana.wav"]
    places = Places(config.inbox, config.voices, config.state_dir)
    assert places.find("takes/ana.wav", config.inbox / "radio") == config.inbox / "radio/takes/ana.wav"
    submit_file(config, checked, "radio/again")
    assert "radio/again.yaml" in files(config.inbox)


def test_a_transcript_that_the_engine_will_ask_for_is_asked_for_beforehand(config: Config, tmp_path: Path) -> None:
    """Of a recording beside the job file or in voices/; no longer when the job or a file beside it has the words."""
    write_job(tmp_path / "mine", "ana.wav", "RIFF")
    write_job(config.voices, "rui.wav", "RIFF")
    rules = job_rules(config)

    def complaints(job: str) -> list[str]:
        path = write_job(tmp_path / "mine", "hello.yaml", f"engine: f5\n{job}\n")
        return [
            f"{problem.key}: {problem.message.partition(':')[0]}"
            for problem in check(path, config, rules).problems
            if problem.key == "speaker_text"  # f5's base model may not be here either
        ]

    both = "segments: [{text: x, speaker_wav: ana.wav}, {text: x, speaker_wav: [rui.wav, ana.wav]}]"
    wanted = [f"speaker_text: f5 needs a transcript of {name}.wav" for name in ("ana", "rui")]
    assert complaints(both) == wanted
    assert complaints("text: x\nspeaker_wav: rui.wav\nspeaker_text: Bom dia.") == []
    write_job(tmp_path / "mine", "ana.txt", "Good day.")
    assert complaints(both) == wanted[1:]
    write_job(config.voices, "rui.txt", "Bom dia.")
    assert complaints(both) == []


def test_another_recording_of_the_same_name_is_not_overwritten(config: Config, tmp_path: Path) -> None:
    """And the job that needs it is not dropped."""
    job = write_job(tmp_path / "mine", "hello.yaml", "text: x\nspeaker_wav: ana.wav\n")
    write_job(tmp_path / "mine", "ana.wav", "one")
    write_job(config.inbox, "ana.wav", "another")
    with pytest.raises(Refused, match=r"another ana\.wav"):
        submit_file(config, check(job, config, job_rules(config)), "hello")
    assert files(config.inbox) == ["ana.wav"]


@pytest.mark.parametrize(
    ("job", "complaint"),
    [
        ("text: x\nspeaker_wav: nobody.wav", "the recording nobody.wav is neither next to the job file nor in voices/"),
        ("text: x\nspeaker_wav: ../secret.wav", "secret.wav"),
        ("text: x\nspeaker_wav: /etc/passwd", "/etc/passwd"),
        ("text: x\nlanguag: en", "2: languag:"),
        ("", "empty; the daemon"),
        ("text: [", "this is not YAML"),
    ],
)
def test_what_the_daemon_would_refuse_is_found_beforehand(
    config: Config, tmp_path: Path, job: str, complaint: str
) -> None:
    """By the same rules, with file and line."""
    path = write_job(tmp_path / "mine", "hello.yaml", job)
    sentences = check(path, config, job_rules(config)).sentences()
    assert any(complaint in sentence for sentence in sentences), sentences
    assert all(sentence.startswith(str(path)) for sentence in sentences)


def test_what_is_no_job_file_is_no_job(config: Config, tmp_path: Path) -> None:
    """A name the spool would leave alone, a folder, a pipe, nothing at all: words, and no waiting."""
    rules = job_rules(config)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("pipe.yaml", "folder.yaml", "nothing.yaml", "notes.txt", ".hidden.yaml"):
        assert len(check(tmp_path / name, config, rules).problems) == 1
    (problem,) = check(tmp_path / "not-there", config, rules).problems
    assert "No such file" in problem.message


def test_several_documents_are_several_jobs(config: Config, tmp_path: Path) -> None:
    """Numbered as the spool numbers them, each with the digest of its own document."""
    path = write_job(tmp_path, "hello.yaml", "text: one\n---\ntext: two\n")
    dropped = submit_file(config, check(path, config, job_rules(config)), "hello")
    assert [job.name for job in dropped] == ["hello-1", "hello-2"]
    assert {job.source for job in dropped} == {"hello.yaml"}
    assert len({job.sha256 for job in dropped}) == 2


def test_a_job_that_names_itself_is_followed_by_that_name(config: Config, tmp_path: Path) -> None:
    path = write_job(tmp_path, "hello.yaml", "text: one\nname: evening/news\n---\ntext: two\n")
    rules = job_rules(config)
    assert [name for name, _digest in check(path, config, rules).jobs("x")] == ["evening/news", "x-2"]
    path.write_text("text: one\nname: evening/news\n")
    (dropped,) = submit_file(config, check(path, config, rules), "x")
    assert (dropped.name, dropped.source) == ("evening/news", "x.yaml")


def test_a_recording_without_its_ending_goes_with_the_job(config: Config, tmp_path: Path) -> None:
    """Under the name that it is found by there."""
    path = write_job(tmp_path / "mine", "hello.yaml", "text: one\nspeaker_wav: ana\n")
    write_job(tmp_path / "mine", "ana.flac", "fLaC")
    write_job(tmp_path / "mine", "ana.txt", "Olá")
    submit_file(config, check(path, config, job_rules(config)), "radio/hello")
    assert sorted(path.name for path in (config.inbox / "radio").iterdir()) == ["ana.flac", "ana.txt", "hello.yaml"]


def test_a_missing_recording_and_a_cut_text_are_named_by_line(config: Config, tmp_path: Path) -> None:
    path = write_job(tmp_path / "mine", "hello.yaml", "text: Call #42\nspeaker_wav: anna.wav\n")
    write_job(tmp_path / "mine", "ana.wav", "RIFF")
    checked = check(path, config, job_rules(config))
    (sentence,) = checked.sentences()
    assert sentence.startswith(f"{path}:2: speaker_wav: the recording anna.wav is neither")
    assert sentence.endswith("did you mean `ana.wav`?")
    warning, unused = checked.warnings()
    assert warning.startswith(f"{path}:1: text: `#42` is not spoken")
    assert unused == f"{path}: espeak can't clone voices; speaker_wav is ignored"


def fail(config: Config, folder: str, job_id: str, text: str) -> Path:
    path = config.outbox / folder
    path.mkdir(parents=True)
    (path / "manifest.json").write_bytes(
        manifest(job_id=job_id, status="failed", source=source("radio/hello.yaml")).to_json()
    )
    (path / "hello.yaml").write_text(text)
    return path


def test_retry_takes_the_newest_failed_result(config: Config) -> None:
    """With what was mended in it; the result stays."""
    fail(config, "radio/hello.failed", "2026-1", "text: old")
    newest = fail(config, "radio/hello.failed~2", "2026-2", "text: mended")
    found = failed(config, "radio/hello")
    (dropped,) = found.drop(config)
    assert (found.result.folder, found.names, dropped.source) == (newest, ["radio/hello"], "radio/hello.yaml")
    assert (config.inbox / dropped.source).read_text() == "text: mended"
    assert newest.is_dir()
    with pytest.raises(Refused, match="is already in the inbox"):
        found.drop(config)


def test_retry_of_a_job_that_names_itself_drops_its_own_file_again(config: Config) -> None:
    """What a manifest says of it is checked as a name is."""
    result = fail(config, "evening/hello.failed", "1", "text: a\nname: evening/hello\n")
    for file, document, dropped in [
        ("radio/job.yaml", 0, "radio/job.yaml"), ("radio/many.yaml", 2, "radio/many-2.yaml"),
        ("../../job.yaml", 0, "evening/hello.yaml"),
    ]:  # fmt: skip
        told = manifest(status="failed", source=source(file, document=document))
        (result / "manifest.json").write_bytes(told.to_json())
        (again,) = failed(config, "evening/hello").drop(config)
        assert (again.source, again.name) == (dropped, "evening/hello")


def test_retry_says_when_there_is_nothing_to_retry(config: Config) -> None:
    """No result, or one without its job file."""
    with pytest.raises(Refused, match="no failed or cancelled result"):
        failed(config, "hello")
    (fail(config, "hello.failed", "1", "x") / "hello.yaml").unlink()
    with pytest.raises(Refused, match="no job file any more"):
        failed(config, "hello")
