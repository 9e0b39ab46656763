"""How files come into the inbox: whole, in pieces, empty, too old, too many, unannounced."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.depriving import as_an_ordinary_user, with_kernel_limit
from tests.sounds import recording
from tests.spooling import PATIENCE_S, Spool, spooling, until

NEVER_S = 3600.0
"""A wait that no test would sit out: what is ready before was not waited for."""
PATIENT = {"quiet_s": 0.2, "unparsable_grace_s": NEVER_S, "companions_s": NEVER_S, "scan_s": 0.5}
"""Quick to look, and in no hurry to give up on a file."""
EVENTS_ONLY = PATIENT | {"scan_s": NEVER_S}


def job(text: str) -> str:
    return f"text: {text}\n"


def spoken(spool: Spool, name: str) -> str:
    """What the result of this name says that it speaks."""
    manifest = spool.manifest(name)
    assert manifest["status"] == "done", manifest
    return str(manifest["request"]["text"])


def listed(spool: Spool, kind: str = "waiting") -> dict[str, str]:
    """The files that status.json says are waiting (held, ignored), and why."""
    return {entry["file"]: entry["reason"] for entry in spool.status().get(kind, ())}


def until_listed(spool: Spool, name: str, reason: str, kind: str = "waiting") -> None:
    """Wait until the spool has looked at a file and says this of it."""
    until(lambda: reason in listed(spool, kind).get(name, ""), lambda: f"{name}: {reason}; {listed(spool, kind)}")


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def run(*words: str | Path, **options: Any) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL, **options)


def installed(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


# --- whole -----------------------------------------------------------------------------------------------------------


def test_a_file_moved_in_is_taken_at_once(tmp_path: Path) -> None:
    """A rename means that the writer is done: no quiet time, no scan; in a subfolder and over another file too."""
    ready = dict.fromkeys(PATIENT, NEVER_S)
    with spooling(tmp_path / "spool", ready=ready) as spool:
        (spool.inbox / "radio").mkdir()
        (spool.inbox / "over.yaml").touch()
        spool.start()
        for name in ("top", "radio/below", "over"):
            spool.drop(f"{name}.yaml", job(f"This is {name}."))
            assert spoken(spool, name) == f"This is {name}."
        assert spool.results() == ["over", "radio/below", "top"]


def test_a_file_moved_in_while_its_writer_has_it_open(tmp_path: Path) -> None:
    """The rename alone does not make it whole: what is still open for writing waits."""
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.start()
        scratch = spool.folder / "scratch"
        with scratch.open("w") as file:
            file.write(job("One."))
            file.flush()
            os.rename(scratch, spool.inbox / "late.yaml")
            until_listed(spool, "late.yaml", "open for writing")
            file.write(" Two.\n")
        assert spoken(spool, "late") == "One. Two."


# --- in pieces -------------------------------------------------------------------------------------------------------


def write_in_pieces(path: Path, duration_s: float) -> float:
    """Open, add to and close a file again and again. Returns the longest pause between two pieces, in seconds."""
    moments_s = [time.monotonic()]
    append(path, "text: begin\n")

    def another() -> bool:
        append(path, f"  {len(moments_s)}\n")
        moments_s.append(time.monotonic())
        return moments_s[-1] - moments_s[0] > duration_s

    until(another)
    append(path, "  end\n")
    moments_s.append(time.monotonic())
    return max(after - before for before, after in pairwise(moments_s))


def test_pieces_with_pauses_shorter_than_the_quiet_time(tmp_path: Path) -> None:
    """A file that is opened, added to and closed again and again is one job, taken when it has been quiet."""
    quiet_s = 1.0
    with spooling(tmp_path / "spool", ready=PATIENT | {"quiet_s": quiet_s}) as spool:
        spool.start()
        for attempt in range(5):
            path = spool.inbox / f"pieces-{attempt}.yaml"
            if write_in_pieces(path, 2 * quiet_s) < quiet_s / 2:  # else the machine held the writer up
                break
        else:
            pytest.skip("the machine is too busy to write a file without pauses of half a second")
        text = spoken(spool, path.stem)
        assert text.startswith("begin 1 2 3")
        assert text.endswith(" end")


def test_pauses_longer_than_the_quiet_time_with_the_file_open(tmp_path: Path) -> None:
    """Half a text that is valid YAML so far is not spoken while its writer only pauses; nor is half a list."""
    pieces = {
        "sentence.yaml": ("text: One.", " Two.\n"),
        "block.yaml": ("text: |\n  One.\n", "  Two.\n"),
        "list.yml": ("segments:\n- text: One.\n", "- text: Two.\n"),
        "documents.yaml": ("text: One.\n", "---\ntext: Two.\n"),
        "late-key.yaml": ("text: One. Two.\n", "language: pt\n"),
    }
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.start()
        files = {name: (spool.inbox / name).open("w") for name in pieces}
        for name, file in files.items():
            file.write(pieces[name][0])
            file.flush()
        for name in files:
            until_listed(spool, name, "open for writing")
        assert spool.results() == []
        for name, file in files.items():
            file.write(pieces[name][1])
            file.close()
        assert spoken(spool, "sentence") == "One. Two."
        assert spoken(spool, "block").split() == ["One.", "Two."]
        assert [part["text"] for part in spool.manifest("list")["request"]["segments"]] == ["One.", "Two."]
        assert [spoken(spool, f"documents-{number}") for number in (1, 2)] == ["One.", "Two."]
        assert spool.manifest("late-key")["request"]["language"] == "pt"
        until(lambda: not spool.claims())
        assert len(spool.results()) == 6


def test_pauses_longer_than_the_quiet_time_with_the_file_closed(tmp_path: Path) -> None:
    """What is quiet and closed but can't be read, or announces more, waits for the rest of it."""
    letter = "\N{LATIN SMALL LETTER A WITH ACUTE}".encode()
    pieces: dict[str, tuple[str | bytes, str | bytes, str]] = {
        "quote.yaml": ('text: "One.', ' Two."\n', "can't be parsed yet"),
        "brace.json": ('{"text": "One. Two."', "}", "can't be parsed yet"),
        "character.yaml": (b"text: One. Ol" + letter[:1], letter[1:] + b". Two.\n", "can't be parsed yet"),
        "more.yaml": ("text: One. Two.\n---\n", "text: Three.\n", "end is missing"),
    }  # fmt: skip
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.start()
        for name, (first, _, _) in pieces.items():
            append(spool.inbox / name, first)
        for name, (_, _, reason) in pieces.items():
            until_listed(spool, name, reason)
        assert spool.results() == []
        for name, (_, rest, _) in pieces.items():
            append(spool.inbox / name, rest)
        assert spoken(spool, "quote") == "One. Two."
        assert spoken(spool, "brace") == "One. Two."
        assert spoken(spool, "character") == "One. Olá. Two."
        assert [spoken(spool, f"more-{number}") for number in (1, 2)] == ["One. Two.", "Three."]


def test_where_nobody_can_tell_whether_a_file_is_open(tmp_path: Path) -> None:
    """Without leases (another user's file) quiet time decides, and a last line without an end means more to come."""
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.prefix = as_an_ordinary_user()
        spool.start()
        path = spool.inbox / "foreign.yaml"
        with path.open("w") as file:
            try:
                os.fchown(file.fileno(), 65534, -1)
            except PermissionError:
                pytest.skip("only root can make a file of another user")
            file.write("text: One.")
            file.flush()
            until_listed(spool, "foreign.yaml", "last line has no line end")
            file.write(" Two.\n")
            file.flush()
            assert spoken(spool, "foreign") == "One. Two."


# --- empty, old, sparse ----------------------------------------------------------------------------------------------


def test_an_empty_file_waits_until_it_is_filled(tmp_path: Path) -> None:
    """No grace ends for it, however often it is looked at; it is taken when it is filled."""
    with spooling(tmp_path / "spool", ready=dict.fromkeys(PATIENT, 0.2)) as spool:
        spool.start()
        path = spool.inbox / "empty.yaml"
        path.touch()
        until_listed(spool, "empty.yaml", "it is empty")
        for name in ("one", "two", "three"):  # each takes the quiet time and the grace
            append(spool.inbox / f"{name}.yaml", "text: [\n")
            spool.result(f"{name}.failed")
        until(lambda: listed(spool) == {"empty.yaml": "it is empty"}, lambda: f"{listed(spool)}")
        append(path, job("Now it is filled."))
        assert spoken(spool, "empty") == "Now it is filled."


def test_an_empty_file_keeps_nobody_from_anything(spool: Spool) -> None:
    """Empty for ever: not a job, not a failure, in nobody's way; it keeps neither --once nor --until-idle."""
    (spool.inbox / "empty.yaml").touch()
    spool.drop("other.yaml", job("Another job."))
    for how in ("--once", "--until-idle"):
        done = spool.command("run", how)
        assert done.returncode == 0, done.stderr
    assert spool.results() == ["other"]
    assert sorted(os.listdir(spool.inbox)) == [".voicespool", "empty.yaml"]
    assert listed(spool) == {"empty.yaml": "it is empty"}


def test_clocks_of_files_are_not_believed(tmp_path: Path) -> None:
    """`cp -p` of an old file, and a file from the future: quiet is measured from when the spool first saw them."""
    quiet_s = 0.8
    with spooling(tmp_path / "spool", ready=PATIENT | {"quiet_s": quiet_s}) as spool:
        old = spool.folder / "old.yaml"
        old.write_text(job("From long ago."))
        os.utime(old, (1e9, 1e9))
        spool.start()
        dropped_s = {"old": time.time()}
        run("cp", "-p", old, spool.inbox / "old.yaml")
        dropped_s["new"] = time.time()
        append(spool.inbox / "new.yaml", job("From the future."))
        os.utime(spool.inbox / "new.yaml", (4e9, 4e9))
        assert spoken(spool, "old") == "From long ago."
        assert spoken(spool, "new") == "From the future."
        for name, since_s in dropped_s.items():
            claimed_s = datetime.fromisoformat(spool.manifest(name)["source"]["claimed_at"]).timestamp()
            assert claimed_s - since_s >= quiet_s - 0.002, name


def test_a_sparse_file_filled_later(tmp_path: Path) -> None:
    """Full size at once, its bytes later and in any order, as download programs do: zero bytes are never a job."""
    first, rest = b"text: |\n  One.\n", b"  Two. Three.\n"
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.start()
        path = spool.inbox / "sparse.yaml"
        path.touch()
        os.truncate(path, len(first + rest))
        until_listed(spool, "sparse.yaml", "zero bytes")
        with path.open("r+b") as file:
            file.write(first)
        until_listed(spool, "sparse.yaml", "zero bytes")
        assert spool.results() == []
        with path.open("r+b") as file:
            file.seek(len(first))
            file.write(rest)
        assert spoken(spool, "sparse").split() == ["One.", "Two.", "Three."]


# --- editors ---------------------------------------------------------------------------------------------------------


def save_in_place(path: Path, text: str) -> None:
    """nano, VS Code, Notepad on a share: cut to nothing, write, force to disk."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def save_with_backup(path: Path, text: str) -> None:
    """Emacs, Vim by default: the old file becomes the backup, a new one is written under its name."""
    os.rename(path, path.with_name(path.name + "~"))
    path.write_text(text)


def save_beside(path: Path, text: str) -> None:
    """Kate, gedit, JetBrains: written beside it under a scratch name, then moved over it."""
    scratch = path.with_name(path.name + "___jb_tmp___")
    scratch.write_text(text)
    os.rename(path, path.with_name(path.name + "___jb_old___"))
    os.rename(scratch, path)
    path.with_name(path.name + "___jb_old___").unlink()


def save_with_sed(path: Path, text: str) -> None:
    """`sed -i`, for real."""
    run("sed", "-i", "-e", f"1c\\{text.strip()}", "-e", "2,$d", path)


def save_with_vim(path: Path, text: str, backup: str = "no") -> None:
    """Vim, for real, with its swap file and the way of saving that `backupcopy` names."""
    commands = [f"set backup backupcopy={backup} directory=. backupdir=.", "%d", f"call setline(1, '{text.strip()}')"]
    words = [word for command in commands for word in ("-c", command)]
    run(installed("vim"), "-es", "-N", "-u", "NONE", *words, "-c", "wq", path.name, cwd=path.parent)


def save_with_vim_copying(path: Path, text: str) -> None:
    save_with_vim(path, text, backup="yes")


def save_with_nano(path: Path, text: str) -> None:
    """nano, for real, on a terminal of its own: everything cut, the new line typed, saved."""
    keys = b"\x0b" * (path.read_text().count("\n") + 1) + text.strip().encode() + b"\x13\x18"
    terminal, side = pty.openpty()
    words = (installed("nano"), "--ignorercfiles", "--backup", path.name)
    environ = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(words, stdin=side, stdout=side, stderr=side, cwd=path.parent, env=environ) as nano:
        os.close(side)
        shown = b""
        while b"\x1b" not in shown:  # it has drawn its screen, so that it takes keys as they are
            shown += os.read(terminal, 4096)
        os.write(terminal, keys)
        while nano.poll() is None:
            try:
                os.read(terminal, 4096)
            except OSError:
                break
        assert nano.wait(PATIENCE_S) == 0
    os.close(terminal)


def edited(folder: Path, *ways: Callable[[Path, str], None]) -> None:
    """Edit a file that waits in the inbox, in each of these ways: the new text is spoken and nothing else."""
    with spooling(folder, ready=PATIENT) as spool:
        names = [way.__name__ for way in ways]
        for name in names:
            spool.drop(f"{name}.yaml", "text: The old text.\nspeaker_wav: never-there.wav\n")
        spool.start()
        for name in names:
            until_listed(spool, f"{name}.yaml", "never-there.wav")
        for way in ways:
            way(spool.inbox / f"{way.__name__}.yaml", f"text: The new text of {way.__name__}.\n")
        for name in names:
            assert spoken(spool, name) == f"The new text of {name}."
        spool.drop("last.yaml")
        spool.result("last")
        assert spool.results() == sorted([*names, "last"])


def test_editors_save_in_place(tmp_path: Path) -> None:
    """A file is edited while it waits: the new text is spoken, the old one never, and no leftover is a job."""
    edited(tmp_path / "spool", save_in_place, save_with_backup, save_beside, save_with_sed)


@pytest.mark.parametrize("way", [save_with_vim, save_with_vim_copying, save_with_nano])
def test_a_real_editor_saves_in_place(tmp_path: Path, way: Callable[[Path, str], None]) -> None:
    """The same by the editor itself, where it is installed."""
    edited(tmp_path / "spool", way)


# --- many ------------------------------------------------------------------------------------------------------------


def all_at_once(folder: Path, count: int) -> None:
    """Files moved in, written in place and in new folders, as quickly as one process can; each is published once."""
    with spooling(folder, defaults={"engine": "instant"}) as spool:
        spool.start()
        names = [f"{'sub/' * (number % 3)}job-{number}" for number in range(count)]
        for number, name in enumerate(names):
            path = spool.inbox / f"{name}.yaml"
            if number % 2:
                spool.drop(f"{name}.yaml", job(f"Number {number}."))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(job(f"Number {number}."))
        patience_s = PATIENCE_S + count * 0.05
        until(lambda: spool.status()["counts"]["done"] >= count, f"{count} jobs are done", patience_s)
        assert spool.results() == sorted(names)
        assert {spoken(spool, name) for name in names} == {f"Number {number}." for number in range(count)}
        assert spool.status()["counts"]["failed"] == 0
        until(lambda: not spool.job_files(), "the claims are removed")


def test_hundreds_of_files_at_once(tmp_path: Path) -> None:
    """Two hundred files in a burst, beside a running daemon."""
    all_at_once(tmp_path / "spool", 200)


@pytest.mark.long
def test_ten_thousand_files_at_once(tmp_path: Path) -> None:
    """Ten thousand files in a burst, beside a running daemon."""
    all_at_once(tmp_path / "spool", 10_000)


# --- events that do not come -----------------------------------------------------------------------------------------


def test_the_kernel_drops_events(tmp_path: Path) -> None:
    """The event queue runs over while the daemon does not get to read it: it looks at everything, and finds the job."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 200_000:
        pytest.skip(f"fs.inotify.max_queued_events is {most} here: overflowing it takes too long")
    with spooling(tmp_path / "spool", ready=EVENTS_ONLY) as spool:
        (spool.inbox / "deep").mkdir()
        process = spool.start()
        process.send_signal(signal.SIGSTOP)
        noise = spool.inbox / ".noise"
        for _ in range(most // 3 + 100):
            noise.touch()  # made, closed
            noise.unlink()
        spool.drop("deep/unannounced.yaml", job("Nobody told of me."))
        process.send_signal(signal.SIGCONT)
        assert spoken(spool, "deep/unannounced") == "Nobody told of me."


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_without_events(tmp_path: Path, limit: str) -> None:
    """No inotify at all, or no watch left for it (the kernel's own limits): the scan finds every job."""
    with spooling(tmp_path / "spool") as spool:
        spool.prefix = with_kernel_limit(limit, 0)
        (spool.inbox / "deep").mkdir()
        spool.start()
        spool.drop("top.yaml", job("At the top."))
        (spool.inbox / "deep" / "below.yaml").write_text(job("Further down."))
        assert spoken(spool, "top") == "At the top."
        assert spoken(spool, "deep/below") == "Further down."


# --- gone, moved, made -----------------------------------------------------------------------------------------------


def test_removed_or_renamed_while_waiting(tmp_path: Path) -> None:
    """A file that goes away is forgotten; one that gets another name is one job, under that name."""
    waits = "text: I wait.\nspeaker_wav: later.wav\n"
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        for name in ("removed", "before", "left", "radio/folder"):
            spool.drop(f"{name}.yaml", waits)
        spool.start()
        until(lambda: len(listed(spool)) == 4)
        (spool.inbox / "removed.yaml").unlink()
        os.rename(spool.inbox / "before.yaml", spool.inbox / "after.yaml")
        os.rename(spool.inbox / "left.yaml", spool.folder / "left.yaml")
        os.rename(spool.inbox / "radio", spool.inbox / "tv")
        until(lambda: listed(spool).keys() == {"after.yaml", "tv/folder.yaml"}, lambda: f"{listed(spool)}")
        spool.drop("later.wav", recording())
        spool.drop("tv/later.wav", recording())
        assert spoken(spool, "after") == "I wait."
        assert spoken(spool, "tv/folder") == "I wait."
        until(lambda: not listed(spool))
        assert spool.results() == ["after", "tv/folder"]


def test_a_folder_of_jobs_moved_in(tmp_path: Path) -> None:
    """A folder with folders of jobs comes by one rename, and goes away, and comes again: every job is found."""
    with spooling(tmp_path / "spool", ready=EVENTS_ONLY) as spool:
        spool.start()
        for round_ in ("first", "second"):
            batch = spool.folder / "batch"
            for name in ("one", "deep/two", "deep/er/three"):
                path = batch / f"{name}.yaml"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(job(f"{round_} {name}"))
            os.rename(batch, spool.inbox / "batch")
            mark = "" if round_ == "first" else "~2"
            for name in ("one", "deep/two", "deep/er/three"):
                assert spoken(spool, f"batch/{name}{mark}") == f"{round_} {name}"
            os.rename(spool.inbox / "batch", spool.folder / round_)


def test_new_folders_with_files_written_at_once(tmp_path: Path) -> None:
    """A folder is made and filled before anybody can watch it, many times; the daemon has no scan to rely on."""
    with spooling(tmp_path / "spool", ready=EVENTS_ONLY) as spool:
        spool.start()
        names = [f"new-{number}/{'deep/' * (number % 3)}job" for number in range(30)]
        for name in names:
            path = spool.inbox / f"{name}.yaml"
            path.parent.mkdir(parents=True)
            path.write_text(job(f"This is {name}."))
        for name in names:
            assert spoken(spool, name) == f"This is {name}."
        assert spool.results() == sorted(names)


def test_a_hard_link_is_a_file_like_any_other(tmp_path: Path) -> None:
    """`ln` raises no event of a rename and no event of a close: quiet time decides; the other name stays as it is."""
    with spooling(tmp_path / "spool", ready=EVENTS_ONLY) as spool:
        spool.start()
        kept = spool.folder / "kept.yaml"
        kept.write_text(job("I have two names."))
        os.link(kept, spool.inbox / "linked.yaml")
        assert spoken(spool, "linked") == "I have two names."
        assert kept.read_text() == job("I have two names.")


# --- real programs ---------------------------------------------------------------------------------------------------


def every_way_of_rsync() -> Iterable[tuple[str, ...]]:
    yield ("-a",)
    yield ("-a", "--inplace")
    yield ("-a", "--partial", "--delay-updates")
    yield ("-a", "--whole-file", "--temp-dir=.", "--partial-dir=.rsync-partial")


def test_rsync(tmp_path: Path) -> None:
    """rsync, for real, in all its ways to write: under a scratch name, late, in place; over the same names again."""
    program = installed("rsync")
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.start()
        for number, options in enumerate(every_way_of_rsync()):
            source = spool.folder / "source"
            (source / "sub").mkdir(parents=True, exist_ok=True)
            for name in ("one", "sub/two"):
                (source / f"{name}.yaml").write_text(job(f"{name} {number}"))
            run(program, *options, f"{source}/", f"{spool.inbox}/", cwd=spool.folder)
            mark = f"~{number + 1}" if number else ""
            assert spoken(spool, f"one{mark}") == f"one {number}"
            assert spoken(spool, f"sub/two{mark}") == f"sub/two {number}"
        assert len(spool.results()) == 8


def test_a_slow_pipe(tmp_path: Path) -> None:
    """`cat >> inbox/x.yaml` at the end of a pipe, as ssh and netcat write: one job, when the pipe is closed."""
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.start()
        with (
            (spool.inbox / "piped.yaml").open("ab") as file,
            subprocess.Popen(("cat",), stdin=subprocess.PIPE, stdout=file) as cat,
        ):
            file.close()
            assert cat.stdin is not None
            cat.stdin.write(b"text: One.\n")
            cat.stdin.flush()
            until_listed(spool, "piped.yaml", "open for writing")
            cat.stdin.write(b"language: pt\n")
        assert spoken(spool, "piped") == "One."
        assert spool.manifest("piped")["request"]["language"] == "pt"
