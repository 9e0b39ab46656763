"""One job's life in this process: what is published, tried again, held, and found after a crash."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import jobs.publish
from jobs import pipeline
from jobs.errors import Cancelled, Hold, InboxGone, LockLost, OutboxGone, RenderFailed
from jobs.order import Fallback, Order, Rendering
from jobs.results.open_outbox import OpenOutbox
from jobs.schedule import URGENT
from tests.headers import save
from tests.in_process import Desk, Renderer, desk, process, render


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return content


def never(order: Order, timeout_s: float | None) -> Rendering:
    raise AssertionError("there is nothing to render")


def failing(times: int, **how: Any) -> Renderer:
    left = iter(range(times))

    def renderer(order: Order, timeout_s: float | None) -> Rendering:
        if next(left, None) is None:
            return render(order, timeout_s)
        raise RenderFailed("the engine stumbled", "Pick it up.", **how)

    return renderer


def held(order: Order, timeout_s: float | None) -> Rendering:
    raise Hold("the disk is full")


# --- what a result is ------------------------------------------------------------------------------


def test_a_job_becomes_a_folder_with_audio_job_file_and_manifest(at: Desk) -> None:
    content = "# my job\r\ntext: hello\nmetadata: {customer: 42}\n"
    folder = at.run("radio/Hello.YAML", content)
    assert folder == at.results / "radio" / "Hello"
    assert sorted(os.listdir(folder)) == ["Hello.YAML", "Hello.wav", "manifest.json"]
    assert (folder / "Hello.YAML").read_bytes() == content.encode(), "byte for byte"
    told = manifest(folder)
    assert (told["name"], told["status"], told["source"]["file"]) == ("radio/Hello", "done", "radio/Hello.YAML")
    assert told["request"]["metadata"] == {"customer": 42}
    assert told["timing"]["real_time_factor"] == 0.1333
    assert told["attempts"] == 1
    assert at.claimed() == []


def test_a_private_job_file_is_published_as_readable_as_all_results(at: Desk) -> None:
    at.drop("a.yaml").chmod(0o600)
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket)
    assert outcome is not None
    mask = os.umask(0)
    os.umask(mask)
    for name in os.listdir(outcome.folder):
        assert stat.S_IMODE((outcome.folder / name).stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    "name", ["manifest.json", "index.html.yaml", "error.yml", "-rf.yaml", "a b\nc.json", "x" * 250 + ".yaml"]
)
def test_no_name_can_spoil_a_result(at: Desk, name: str) -> None:
    folder = at.run(name, '{"text": "hello"}')
    assert len(os.listdir(folder)) == 3
    assert at.published()[folder.name]["status"] == "done"


def test_names_that_are_not_utf8_are_told_in_escapes(at: Desk) -> None:
    folder = at.run(os.fsdecode(b"caf\xe9\x1b[2J/\xff.yaml"))
    assert folder == at.results / "caf%E9%1B%5B2J".replace("%5B", "[") / "%FF"
    told = manifest(folder)
    assert told["source"]["file"] == "caf\\udce9\\x1b[2J/\\udcff.yaml"
    assert sorted(os.listdir(folder)) == ["%FF.wav", "%FF.yaml", "manifest.json"]


def test_the_outbox_may_lie_on_another_file_system(tmp_path: Path, other_file_system: Path) -> None:
    with desk(tmp_path / "spool", outbox=other_file_system) as at:
        folder = at.run("radio/a.yaml")
        assert folder == other_file_system / "radio" / "a"
        at.published()
        at.drop("b.yaml", b"text: " + b"x" * (1 << 21))
        assert at.opened.settings.max_bytes == 1 << 20
        (ticket,) = at.take("b.yaml")
        outcome = at.process(ticket, never)
        assert outcome is not None
        assert (outcome.folder / "b.yaml").read_bytes() == b"text: ".ljust(4096, b"x")


# --- failures --------------------------------------------------------------------------------------


def test_a_wrong_job_fails_with_every_problem_and_its_file(at: Desk) -> None:
    at.drop("a.yaml", "txt: hello\npriority: 99\n")
    (ticket,) = at.take("a.yaml")
    assert ticket.priority == URGENT
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert outcome.folder == at.results / "a.failed"
    words = (outcome.folder / "ERROR.txt").read_text()
    assert "txt" in words
    assert "priority" in words
    assert {problem["line"] for problem in manifest(outcome.folder)["error"]["problems"]} == {1, 2}
    assert (outcome.folder / "a.yaml").read_text() == "txt: hello\npriority: 99\n"


def test_moving_the_job_file_back_retries_it(at: Desk) -> None:
    at.drop("a.yaml", "text: hello\n")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket, failing(3))
    assert outcome is not None
    os.rename(outcome.folder / "a.yaml", at.inbox / "a.yaml")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket)
    assert outcome is not None
    assert outcome.folder == at.results / "a"


@pytest.mark.parametrize(("failures", "status", "attempts"), [(0, "done", 1), (2, "done", 3), (3, "failed", 3)])
def test_what_the_engine_fails_on_is_tried_three_times(at: Desk, failures: int, status: str, attempts: int) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket, failing(failures))
    assert outcome is not None
    assert (outcome.status, manifest(outcome.folder)["attempts"]) == (status, attempts)


def test_what_is_not_worth_a_retry_gets_none(at: Desk) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket, failing(1, code="engine_refused", retryable=False))
    assert outcome is not None
    assert manifest(outcome.folder)["error"] == {
        "code": "engine_refused", "message": "the engine stumbled", "hint": "Pick it up.", "retryable": False,
    }  # fmt: skip


@pytest.mark.parametrize(("failures", "how"), [(3, {}), (1, {"retryable": False})])
def test_attempts_that_are_used_up_stay_used_up_over_a_restart(at: Desk, failures: int, how: dict[str, Any]) -> None:
    """The outbox is away when the last one fails; what the engine said is told afterwards."""
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    at.results.rename(at.folder / "away")
    with pytest.raises(OutboxGone):
        process(at.opened, ticket.job_id, failing(failures, **how))
    at.close()
    (at.folder / "away").rename(at.results)
    (ticket,) = at.resume()
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert manifest(outcome.folder)["error"]["message"] == "the engine stumbled"


def test_a_death_of_the_daemon_is_no_attempt(at: Desk) -> None:
    class Death(BaseException):
        pass

    def dying(order: Order, timeout_s: float | None) -> Rendering:
        raise Death

    at.drop("a.yaml")
    at.take("a.yaml")
    for _ in range(5):
        at.close()
        (ticket,) = at.resume()
        with pytest.raises(Death):
            at.process(ticket, dying)
    outcome = at.process(ticket)
    assert outcome is not None
    assert manifest(outcome.folder)["attempts"] == 1


def altered(**how: Any) -> Renderer:
    def renderer(order: Order, timeout_s: float | None) -> Rendering:
        return replace(render(order, timeout_s), **how)

    return renderer


def leaving(kind: str) -> Renderer:
    """A worker whose file is something else than it says."""

    def renderer(order: Order, timeout_s: float | None) -> Rendering:
        made, path = render(order, timeout_s), Path(order.result_dir, f"{order.stem}.wav")
        path.unlink()
        if kind == "link":
            path.symlink_to("/etc/passwd")
        elif kind == "pipe":
            os.mkfifo(path)
        return made

    return renderer


@pytest.mark.parametrize(
    "renderer",
    [
        altered(audio=({"file": "a.wav"},)),
        altered(segments=({"text": 1},)),
        altered(checks={"verdict": "splendid"}),
        altered(timing={"synthesis_s": -1.0}),
        altered(timing={"load_s": "soon"}),
        altered(timing={"synthesis_s": float("nan")}),
        altered(engine={"name": "\ud800"}),
        altered(engine={"x": float("inf")}),
        altered(voice={"x": object()}),
        altered(warnings=(1,)),
        altered(files=("../../../etc/passwd",)),
        altered(files=("",)),
        altered(files=("..",)),
        altered(files=("nothing.wav",)),
        altered(files=("manifest.json",)),
        altered(files=("a.yaml",)),
        altered(files=("a.wav", "a.wav")),
        leaving("nothing"),
        leaving("link"),
        leaving("pipe"),
    ],
)
def test_nothing_that_a_worker_says_or_leaves_stops_the_spool(at: Desk, renderer: Any) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket, renderer)
    assert outcome is not None
    assert outcome.status == "failed"
    assert at.published()["a.failed"]["error"]["code"] == "engine_failed"


def test_a_file_too_large_fails_and_its_beginning_is_handed_back(at: Desk) -> None:
    """A stranger's file of a terabyte takes no space in the outbox, and no time."""
    path = at.drop("a.yaml", "text: the beginning\n")
    os.truncate(path, 1 << 40)
    found = replace(at.look_at_large("a.yaml"), set_aside="the file is too large")
    (ticket,) = at.take_found(found)
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert (outcome.folder / "a.yaml").read_bytes() == b"text: the beginning\n".ljust(4096, b"\0")
    assert manifest(outcome.folder)["warnings"] == ["Only the first 4 KiB of the job file are in this folder."]
    error = (outcome.folder / "ERROR.txt").read_text()
    assert "too large" in error
    assert "first 4 KiB" in error


def test_a_strangers_file_is_neither_published_nor_changed(at: Desk, tmp_path: Path) -> None:
    """A second name for somebody's private file, cancelled before it was read: neither shared nor given a mode."""
    private = tmp_path / "private"
    private.write_bytes(b"text: secret\n")
    private.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(private, 4711, 4712)
    os.link(private, at.inbox / "a.yaml")
    before = os.stat(private)
    (ticket,) = at.take_found(replace(at.look("a.yaml"), set_aside="it was cancelled"))
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert sorted(os.listdir(outcome.folder)) == ["ERROR.txt", "manifest.json"]
    assert "may be another user's file" in (outcome.folder / "ERROR.txt").read_text()
    after = os.stat(private)
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_nlink == 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_file_that_can_not_be_read_any_more_does_not_hold_the_outbox_up(
    at: Desk, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Its owner, another user, changed its permissions after it was claimed; or its disk is broken there."""
    at.drop("a.yaml")
    (ticket,) = at.take_found(replace(at.look("a.yaml"), set_aside="it is too large"))

    def refused(*_arguments: Any) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(jobs.publish, "read_at_most", refused)
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert sorted(os.listdir(outcome.folder)) == ["ERROR.txt", "manifest.json"]
    assert f"could not be read ({os.strerror(code)})" in (outcome.folder / "ERROR.txt").read_text()


def test_nothing_in_a_result_is_shared_with_the_state_and_a_long_copy_breathes(tmp_path: Path) -> None:
    """The audio is 17 MiB: two whole slices."""
    private: list[os.stat_result] = []
    breaths: list[list[str]] = []

    def long(order: Order, timeout_s: float | None) -> Rendering:
        made = render(order, timeout_s)
        path = Path(order.result_dir, made.files[0])
        os.truncate(path, 17 << 20)
        private.append(os.stat(path))
        audio = {**made.audio[0], "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        return replace(made, audio=(audio,))

    outbox = tmp_path / "outbox"
    with desk(
        tmp_path / "spool", outbox=outbox, settings={"after_slice": lambda: breaths.append(os.listdir(outbox))}
    ) as at:
        at.drop("a.yaml")
        (ticket,) = at.take("a.yaml")
        private.append(os.stat(at.state / "claimed" / ticket.job_id / "job.yaml"))
        outcome = at.process(ticket, long)
        assert outcome is not None
        assert breaths == [[".voicespool"]] * 2
        files = [os.stat(path) for path in outcome.folder.iterdir()]
        assert all(file.st_nlink == 1 for file in files)
        assert not {file.st_ino for file in files} & {file.st_ino for file in private}
        assert list(at.published()) == ["a"]


def test_a_claimed_file_that_kills_daemons_is_put_aside_alone(at: Desk) -> None:
    """Its neighbours, and a new file of its name, are read as ever."""
    at.drop("a.yaml", "text: one\n---\ntext: two\n")
    first, second = at.take("a.yaml")
    at.opened.fresh.clear()
    at.opened.store._deaths[first.job_id] = 10
    tickets = [ticket for job_id in (first.job_id, second.job_id) for ticket in at.resumed(job_id)]
    assert [ticket.priority for ticket in tickets] == [URGENT, 5]
    outcomes = [at.process(ticket) for ticket in tickets]
    assert [outcome.status for outcome in outcomes if outcome] == ["failed", "done"]
    assert (at.results / "a-1.failed" / "a-1.yaml").read_bytes() == b"text: one\n"
    assert at.run("a.yaml") == at.results / "a"


def test_the_spools_own_copy_is_compared_with_its_checksum(at: Desk) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    (at.state / "claimed" / ticket.job_id / "job.yaml").write_bytes(b"text: bits rot\n")
    at.opened.fresh.clear()
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert "damaged on disk" in outcome.message


def test_a_claim_whose_copy_is_gone_holds_itself_alone_when_it_is_read_back(at: Desk) -> None:
    at.drop("a.yaml")
    at.drop("b.yaml")
    (broken,), (_whole,) = at.take("a.yaml"), at.take("b.yaml")
    (at.state / "claimed" / broken.job_id / "job.yaml").unlink()
    at.close()
    back, other = at.resume()
    with pytest.raises(Hold, match="the claimed job file"):
        at.process(back, never)
    assert at.process(other) is not None


# --- several documents -----------------------------------------------------------------------------


def test_documents_are_jobs_and_a_wrong_one_fails_alone(at: Desk) -> None:
    at.drop("radio/a.yaml", "text: one\n---\ntxt: two\n---\ntext: three\npriority: 9\n")
    tickets = at.take("radio/a.yaml")
    assert [(ticket.name, ticket.priority) for ticket in tickets] == [
        ("radio/a-1", 5), ("radio/a-2", URGENT), ("radio/a-3", 9),
    ]  # fmt: skip
    for ticket in tickets:
        at.process(ticket)
    assert sorted(at.published()) == ["radio/a-1", "radio/a-2.failed", "radio/a-3"]
    assert "Document 2 of radio/a.yaml failed" in (at.results / "radio/a-2.failed/ERROR.txt").read_text()
    again = (at.results / "radio/a-3/a-3.yaml").read_bytes()
    assert at.run("b.yaml", again) == at.results / "b"
    assert manifest(at.results / "b")["request"] == manifest(at.results / "radio/a-3")["request"]


def test_ten_documents_are_numbered_with_zeros(at: Desk) -> None:
    """So that they are in order wherever names are sorted; a crash changes no number."""
    at.drop("a.yaml", "---\n".join(f"text: {number}\n" for number in range(10)))
    names = [ticket.name for ticket in at.take("a.yaml")]
    assert (names[0], names[9]) == ("a-01", "a-10")
    at.close()
    assert sorted(ticket.name for ticket in at.resume()) == names


# --- a name of its own ---------------------------------------------------------------------------------------------


def test_a_job_names_its_result(at: Desk) -> None:
    """Folder, files and manifest; the job file can be dropped again, and takes the next number."""
    job = "text: hello\nname: evening//news.yaml\n"
    folder = at.run("radio/job.yml", job)
    assert folder == at.results / "evening/news"
    assert sorted(os.listdir(folder)) == ["manifest.json", "news.wav", "news.yml"]
    told = manifest(folder)
    assert (told["name"], told["source"]["file"]) == ("evening/news", "radio/job.yml")
    assert told["request"]["name"] == "evening/news"
    assert at.run("news.yml", (folder / "news.yml").read_bytes()) == at.results / "evening/news~2"


def test_a_name_of_its_own_outlives_a_crash_and_a_cancellation(at: Desk) -> None:
    """It is on disk before the job is in the queue, so that a claim that is not parsed again has it, too."""
    at.drop("radio/job.yaml", "text: one\nname: evening/news\n---\ntext: two\n")
    tickets = at.take("radio/job.yaml")
    assert [(ticket.name, ticket.file_name) for ticket in tickets] == [
        ("evening/news", "radio/job"), ("radio/job-2", "radio/job"),
    ]  # fmt: skip
    at.close()
    tickets = at.resume()
    assert [ticket.name for ticket in tickets] == ["evening/news", "radio/job-2"]
    at.opened.store.folder_of(tickets[0].job_id).record().add(cancelled=True)
    at.close()
    for ticket in at.resume():
        at.process(ticket)
    assert sorted(at.published()) == ["evening/news.cancelled", "radio/job-2"]


def test_a_job_that_is_not_understood_keeps_the_name_of_its_file(at: Desk) -> None:
    at.drop("a.yaml", "text: hello\nname: evening/news\nlangauge: en\n")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert outcome.folder == at.results / "a.failed"


def test_what_yaml_cuts_from_a_text_makes_the_result_doubtful(at: Desk) -> None:
    told = manifest(at.run("a.yaml", "text: Call extension #42 now\n"))
    assert told["checks"]["verdict"] == "doubtful"
    (reason,) = told["checks"]["reasons"]
    assert reason in told["warnings"]
    assert reason.startswith("line 1: text: `#42 now` is not spoken")
    assert manifest(at.run("b.yaml", "text: 'Call extension' #42\n"))["checks"]["verdict"] == "ok"


def test_the_status_is_as_doubtful_as_the_manifest(at: Desk) -> None:
    """What `status.json`, the log and `submit --wait` say comes from the outcome."""
    at.drop("a.yaml", "text: Call extension #42 now\n")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket)
    assert outcome is not None
    checks = manifest(outcome.folder)["checks"]
    assert (outcome.verdict, list(outcome.reasons)) == (checks["verdict"], checks["reasons"])
    assert outcome.verdict == "doubtful"


# --- recordings and checkpoints ------------------------------------------------------------------------------------


def test_a_job_speaks_with_the_recording_that_was_there_when_it_was_claimed(at: Desk) -> None:
    (at.voices / "ana.wav").write_bytes(b"before")
    (at.voices / "ana.txt").write_text("Olá")
    at.drop("a.yaml", "text: hello\nspeaker_wav: ana.wav\n")
    (ticket,) = at.take("a.yaml")
    (at.voices / "ana.wav").write_bytes(b"after")
    heard: list[Any] = []

    def listening(order: Order, timeout_s: float | None) -> Rendering:
        heard.extend([Path(order.recordings["ana.wav"]).read_bytes(), order.transcripts["ana.wav"]])
        return render(order, timeout_s)

    at.close()
    (ticket,) = at.resume()
    at.process(ticket, listening)
    assert heard == [b"before", "Olá"]
    assert os.listdir(at.state / "recordings") == []


@pytest.mark.parametrize("name", ["gone.wav", "../inbox/.voicespool/id", ".voicespool/id", "/etc/passwd"])
def test_a_recording_that_can_not_be_had_fails_the_job_in_words(at: Desk, name: str) -> None:
    at.drop("a.yaml", f"text: hello\nspeaker_wav: {name}\n")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert outcome.status == "failed"
    assert name in (outcome.folder / "ERROR.txt").read_text()
    (problem,) = manifest(outcome.folder)["error"]["problems"]
    assert (problem["line"], problem["key"]) == (2, "speaker_wav")


def test_a_recording_that_is_missing_is_named_by_the_line_of_its_own_document(at: Desk) -> None:
    """The result holds that document, so that its lines count, not those of the file it came in."""
    at.drop("a.yaml", "text: one\n---\nsegments:\n- text: two\n  speaker_wav: gone.wav\n")
    for ticket in at.take("a.yaml"):
        at.process(ticket)
    (problem,) = manifest(at.results / "a-2.failed")["error"]["problems"]
    assert (problem["line"], problem["key"]) == (4, "segments[0].speaker_wav")


def test_a_claim_of_the_first_version_fails_with_its_sentences(at: Desk) -> None:
    """That version kept no names with them."""
    at.drop("a.yaml", "text: hello\nspeaker_wav: gone.wav\n")
    (ticket,) = at.take("a.yaml")
    record = at.opened.store.folder_of(ticket.job_id).record()
    record.add(problems=list(record.last("problems").values()))
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert "the recording gone.wav is neither" in (outcome.folder / "ERROR.txt").read_text()


def test_the_worker_gets_the_checkpoint_as_it_is_when_the_job_starts(at: Desk) -> None:
    """Its real path, its name, and what changes when it is replaced, also between two attempts."""
    file = save(at.models / "anna/model.safetensors")
    (at.models / "ana").symlink_to("anna")
    at.drop("a.yaml", "text: hello\ncheckpoint: ana\n")
    (ticket,) = at.take("a.yaml")
    assert ticket.model == ("voice", str(file.resolve()))
    orders: list[Order] = []

    def replacing(order: Order, timeout_s: float | None) -> Rendering:
        orders.append(order)
        if len(orders) == 1:
            save(file, step=2)
            raise RenderFailed("the engine stumbled")
        return render(order, timeout_s)

    outcome = at.process(ticket, replacing)
    assert outcome is not None
    first, second = orders
    assert first.model[:2] == second.model[:2] == ("voice", str(file.resolve()))
    assert first.checkpoint is not None
    assert second.checkpoint is not None
    assert first.checkpoint.state != second.checkpoint.state
    assert second.checkpoint.name == "anna/model.safetensors"
    assert manifest(outcome.folder)["request"]["checkpoint"] == "ana"


def test_jobs_of_one_model_are_known_by_its_file(at: Desk) -> None:
    """However they name it; those for the base model are another kind."""
    save(at.models / "anna/model.safetensors")
    models = set()
    for number, name in enumerate(("anna", "model", "anna/model", "anna/model.safetensors", "")):
        at.drop(f"{number}.yaml", f"text: hello\ncheckpoint: {name}\n")
        (ticket,) = at.take(f"{number}.yaml")
        models.add(ticket.model)
    assert models == {("voice", str((at.models / "anna/model.safetensors").resolve())), ("voice", "")}


def test_a_checkpoint_that_goes_while_a_job_waits_fails_it_in_words(at: Desk) -> None:
    file = save(at.models / "anna.safetensors")
    at.drop("a.yaml", "text: hello\ncheckpoint: anna\n")
    (ticket,) = at.take("a.yaml")
    file.unlink()
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert outcome.status == "failed"
    assert 'line 2: checkpoint: unknown model "anna"' in (outcome.folder / "ERROR.txt").read_text()


class Picky:
    """A worker whose engine speaks with no checkpoint, and, after so many failures, with the base model."""

    def __init__(self, failures: int = 0) -> None:
        self.orders: list[Order] = []
        self.fail = failing(failures)

    def __call__(self, order: Order, timeout_s: float | None) -> Rendering:
        self.orders.append(order)
        if order.checkpoint:
            raise RenderFailed("its vocabulary is torn", "Copy it.", code="checkpoint_refused", retryable=False)
        made = self.fail(order, timeout_s)
        return replace(made, engine={"fallback": asdict(order.fallback) if order.fallback else None})


WITH_BASE = "text: hello\ncheckpoint: anna\non_checkpoint_error: base\n"
INSTEAD = "the base model is used instead of the checkpoint anna: its vocabulary is torn"


def test_a_checkpoint_that_is_refused_when_it_is_loaded_gives_way_to_the_base_model(at: Desk) -> None:
    """Where the job allows it, in the same attempt; whoever looks at the results is told."""
    save(at.models / "anna.safetensors")
    at.drop("a.yaml", WITH_BASE)
    (ticket,) = at.take("a.yaml")
    worker = Picky()
    outcome = at.process(ticket, worker)
    assert outcome is not None
    assert (outcome.status, outcome.message) == ("done", INSTEAD)
    first, second = worker.orders
    assert first.checkpoint
    assert first.fallback is None
    assert second.checkpoint is None
    assert second.fallback == Fallback("anna", "its vocabulary is torn")
    told = manifest(outcome.folder)
    assert (told["attempts"], told["request"]["checkpoint"]) == (1, "anna")


def test_the_base_model_is_used_at_once_and_still_after_it_failed(at: Desk) -> None:
    """Only the next attempt waits; whoever begins it knows of the refusal."""
    save(at.models / "anna.safetensors")
    at.settings["retry_delays_s"] = (5.0,)
    at.drop("a.yaml", WITH_BASE)
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    job = pipeline.begin(at.opened, ticket.job_id)
    assert isinstance(job, pipeline.Job)
    refusal = RenderFailed("its vocabulary is torn", "Copy it.", code="checkpoint_refused", retryable=False)
    base = pipeline.finish(at.opened, job, refusal)
    assert isinstance(base, pipeline.Job)
    assert (base.order.fallback, base.wait_s) == (Fallback("anna", "its vocabulary is torn"), 0.0)
    again = pipeline.finish(at.opened, base, RenderFailed("It broke.", "Look."))
    assert isinstance(again, pipeline.Job)
    assert again.wait_s == 5.0
    begun = pipeline.begin(at.opened, ticket.job_id)
    assert isinstance(begun, pipeline.Job)
    assert (begun.order.fallback, begun.ticket) == (base.order.fallback, again.ticket)


def test_without_leave_a_checkpoint_that_is_refused_fails_the_job(at: Desk) -> None:
    save(at.models / "anna.safetensors")
    at.drop("a.yaml", "text: hello\ncheckpoint: anna\n")
    (ticket,) = at.take("a.yaml")
    worker = Picky()
    outcome = at.process(ticket, worker)
    assert outcome is not None
    assert len(worker.orders) == 1
    assert manifest(outcome.folder)["error"] == {
        "code": "checkpoint_refused", "message": "its vocabulary is torn", "hint": "Copy it.", "retryable": False,
    }  # fmt: skip


def test_a_base_model_that_fails_too_is_told_with_both_reasons(at: Desk) -> None:
    """Attempts count what the base model does alone, and a death in between changes nothing."""
    save(at.models / "anna.safetensors")
    at.drop("a.yaml", WITH_BASE)
    (ticket,) = at.take("a.yaml")
    worker = Picky(failures=3)
    outcome = at.process(ticket, worker)
    assert outcome is not None
    told = manifest(outcome.folder)
    assert (told["attempts"], told["error"]["message"]) == (3, f"the engine stumbled; {INSTEAD}")
    assert [bool(order.checkpoint) for order in worker.orders] == [True, False, False, False]


def test_a_checkpoint_that_goes_while_a_job_waits_gives_way_too(at: Desk) -> None:
    file = save(at.models / "anna.safetensors")
    at.drop("a.yaml", WITH_BASE + "engine: voice\n")
    (ticket,) = at.take("a.yaml")
    file.unlink()
    worker = Picky()
    outcome = at.process(ticket, worker)
    assert outcome is not None
    (order,) = worker.orders
    assert order.fallback is not None
    assert order.fallback.reason == 'unknown model "anna"; models/ has no model files'


def test_a_full_disk_while_a_recording_is_copied_fails_nothing(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (at.voices / "ana.wav").write_bytes(b"RIFF")
    at.drop("a.yaml", "text: hello\nspeaker_wav: ana.wav\n")
    found, real = at.look("a.yaml"), os.fsync

    def full(fd: int) -> None:
        if "/recordings/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Hold, match="No space"):
            at.take_found(found)
    at.close()
    (ticket,) = at.resume()
    outcome = at.process(ticket)
    assert outcome is not None
    assert outcome.status == "done"


# --- cancel ----------------------------------------------------------------------------------------


def test_a_cancelled_job_is_published_as_such_over_a_restart(at: Desk) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    for _ in range(2):
        at.opened.store.folder_of(ticket.job_id).record().add(cancelled=True)
    at.close()
    (ticket,) = at.resume()
    assert ticket.priority == URGENT
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert outcome.folder == at.results / "a.cancelled"
    assert "was cancelled" in (outcome.folder / "ERROR.txt").read_text()


def test_a_job_cancelled_while_it_is_rendered_is_not_tried_again(at: Desk) -> None:
    def cancelled(order: Order, timeout_s: float | None) -> Rendering:
        raise Cancelled("the job was cancelled while it was rendered")

    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    outcome = at.process(ticket, cancelled)
    assert outcome is not None
    assert (outcome.status, at.claimed()) == ("cancelled", [])


# --- holds -----------------------------------------------------------------------------------------


def test_a_hold_of_the_machine_fails_nothing(at: Desk) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    with pytest.raises(Hold, match="the disk is full"):
        at.process(ticket, held)
    outcome = at.process(ticket)
    assert outcome is not None
    assert manifest(outcome.folder)["attempts"] == 1


def test_what_is_rendered_waits_for_the_outbox_and_is_not_rendered_again(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()

    def full(*_arguments: Any, **_keywords: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", full)
        with pytest.raises(Hold, match="No space left on device"):
            at.process(ticket)
    assert at.published() == {}
    at.close()
    (ticket,) = at.resume()
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert (outcome.status, at.published()["a"]["attempts"]) == ("done", 1)


def test_a_hold_that_lasts_adds_nothing_to_the_record(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rendering is as long as its text, and a hold may last for days."""
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    sizes = []
    with monkeypatch.context() as patch:
        patch.setattr(OpenOutbox, "assemble", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O")))
        for _ in range(3):
            with pytest.raises(Hold):
                at.process(ticket)
            sizes.append(at.opened.store.folder_of(ticket.job_id).record().path.stat().st_size)
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("damage", ["truncated", "gone", "link"])
def test_kept_audio_that_a_power_failure_damaged_is_made_again(
    at: Desk, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    with monkeypatch.context() as patch:
        patch.setattr(OpenOutbox, "assemble", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O")))
        with pytest.raises(Hold):
            at.process(ticket)
    path = at.state / "claimed" / ticket.job_id / "attempt-1" / "a.wav"
    path.unlink() if damage != "truncated" else os.truncate(path, 3)
    if damage == "link":
        path.symlink_to("/etc/passwd")
    outcome = at.process(ticket)
    assert outcome is not None
    at.published()


def test_an_outbox_that_went_away_before_the_rename_gets_the_result_when_it_is_back(at: Desk) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()

    def meanwhile(order: Order, timeout_s: float | None) -> Rendering:
        at.results.rename(at.folder / "away")
        at.results.mkdir()
        return render(order, timeout_s)

    with pytest.raises(OutboxGone):
        at.process(ticket, meanwhile)
    assert os.listdir(at.results) == []
    at.results.rmdir()
    (at.folder / "away").rename(at.results)
    at.process(ticket, never)
    assert list(at.published()) == ["a"]


def test_nothing_is_published_without_the_lock_or_the_inbox(at: Desk) -> None:
    """An inbox that is away is a hold, not a lost lock."""
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    (at.state / "lock").rename(at.folder / "lock")
    with pytest.raises(LockLost):
        at.process(ticket)
    (at.folder / "lock").rename(at.state / "lock")
    assert at.published() == {}

    at.inbox.rename(at.folder / "unmounted")
    with pytest.raises(InboxGone):
        at.process(ticket, never)
    (at.folder / "unmounted").rename(at.inbox)
    at.process(ticket, never)
    assert list(at.published()) == ["a"]


def test_an_inbox_that_goes_between_assembly_and_rename_is_a_hold(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    intend = jobs.publish._intend

    def then_unmount(*arguments: Any) -> None:
        intend(*arguments)
        at.inbox.rename(at.folder / "unmounted")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.publish, "_intend", then_unmount)
        with pytest.raises(InboxGone):
            at.process(ticket)
    assert at.published() == {}
    (at.folder / "unmounted").rename(at.inbox)
    at.process(ticket, never)
    assert list(at.published()) == ["a"]


# --- after a crash ---------------------------------------------------------------------------------


class Death(BaseException):
    pass


def dies(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> None:
    real = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        if after:
            real(*arguments, **keywords)
        raise Death

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("taken_away", [False, True])
def test_a_death_between_publication_and_release_makes_nothing_twice(
    at: Desk, monkeypatch: pytest.MonkeyPatch, taken_away: bool
) -> None:
    """Also when a consumer has taken the result away by the next start."""
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    with monkeypatch.context() as patch:
        dies(patch, at.opened.store.__class__, "release", after=False)
        with pytest.raises(Death):
            at.process(ticket)
    if taken_away:
        (at.results / "a").rename(at.folder / "consumed")
    at.close()
    (ticket,) = at.resume()
    assert ticket.priority == URGENT
    outcome = at.process(ticket, never)
    assert outcome is not None
    assert outcome.duration_s == 1.5
    assert list(at.published()) == ([] if taken_away else ["a"])
    assert at.claimed() == []


def test_a_death_between_intent_and_publication_publishes_what_is_assembled(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    with monkeypatch.context() as patch:
        dies(patch, jobs.publish, "_intend", after=True)
        with pytest.raises(Death):
            at.process(ticket)
    at.close()
    (ticket,) = at.resume()
    at.process(ticket, never)
    assert list(at.published()) == ["a"]


def test_an_intent_for_another_outbox_is_forgotten(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator named another folder after the crash: the job is rendered anew, for that one."""
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.find_outbox()
    with monkeypatch.context() as patch:
        dies(patch, jobs.publish, "_intend", after=True)
        with pytest.raises(Death):
            at.process(ticket)
    at.close()
    at.outbox_folder = at.folder / "elsewhere"
    (ticket,) = at.resume()
    at.process(ticket)
    assert list(at.published()) == ["a"]
    assert at.claimed() == []


def test_a_job_that_is_gone_is_no_trouble(at: Desk) -> None:
    at.drop("a.yaml")
    (ticket,) = at.take("a.yaml")
    at.process(ticket)
    assert at.process(ticket, never) is None
