"""Names that file systems, clients and strangers come up with: each job has its result, nothing else is touched."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spooling import PATIENCE_S, Spool, below, spooling, until

LONG = "x" * 250 + ".yaml"
NAMES = {
    # ordinary ones stay as they are
    "with spaces.yaml": "with spaces",
    "Olá, vovó.yaml": "Olá, vovó",
    "\N{PARTY POPPER}.yaml": "\N{PARTY POPPER}",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}.yaml": "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
    "-rf.yaml": "-rf",
    "--config=x.yaml": "--config=x",
    "$(reboot) `id` 'quoted'.yaml": "$(reboot) `id` 'quoted'",
    "two.dots.yaml": "two.dots",
    "SHOUTED.YAML": "SHOUTED",
    "radio/hello.yaml": "radio/hello",
    "tv/hello.yaml": "tv/hello",
    # what a terminal, a shell script or another system would trip over is written as in a URL
    "new\nline.yaml": "new%0Aline",
    "\x1b[31mred\x1b]0;owned\x07.yaml": "%1B[31mred%1B]0;owned%07",
    "right\N{RIGHT-TO-LEFT OVERRIDE}to-left.yaml": "right%E2%80%AEto-left",
    "caf\udce9 latin1.yaml": "caf%E9 latin1",
    "\udcff\udcfe/\udc80.yaml": "%FF%FE/%80",
    "what? <why>: *.yaml": "what%3F %3Cwhy%3E%3A %2A",
    "C\\..\\..\\windows.yaml": "C%5C..%5C..%5Cwindows",
    "CON.yaml": "%43ON",
    "aux.txt.yaml": "%61ux.txt",
    "last dot..yaml": "last dot%2E",
    "last space .yaml": "last space%20",
    # and what would pass for something of the spool's own
    "manifest.json": "%6Danifest",
    "index.html.yaml": "%69ndex.html",
    "ERROR.yaml": "%45RROR",
    "hello.failed.yaml": "hello%2Efailed",
    "hello~2.yaml": "hello%7E2",
    "100%41.yaml": "100%2541",
}
TWINS = [
    # one name on some system: the later one takes the number, whichever that is
    ("twin.yaml", "twin.json"),
    ("three.yaml", "three.yml", "three.YML"),
    ("Case.yaml", "case.yaml"),
    (unicodedata.normalize("NFC", "é-form.yaml"), unicodedata.normalize("NFD", "é-form.yaml")),
    ("Straße.yaml", "STRASSE.yaml"),
]


def job(text: str) -> str:
    """A job that says `text`, as YAML and as JSON."""
    return f'{{"text": "{text}"}}\n'


def test_every_name_gets_its_result(spool: Spool) -> None:
    """All at once: each job file is published once, byte for byte, under a name that every system can hold."""
    jobs = {name: job(f"Number {number}.") for number, name in enumerate([*NAMES, LONG, *sum(TWINS, ())])}
    spool.start()
    for name, text in jobs.items():
        spool.drop(name, text)
    until(lambda: spool.status()["counts"]["done"] >= len(jobs), lambda: f"{spool.results()}")
    results = spool.results()
    assert len(results) == len(jobs)
    for name, folder in NAMES.items():
        assert_is_result(spool, folder, jobs[name])
    for twins in TWINS:
        stem = results_of_twins(results, twins[0])
        assert len(stem) == len(twins), stem
        assert {said(spool, folder) for folder in stem} == {said_by(jobs[name]) for name in twins}
    (shortened,) = [folder for folder in results if folder.startswith("xxx")]
    assert len(shortened.encode()) <= 220
    assert said(spool, shortened) == said_by(jobs[LONG])
    assert_safe_on_every_system(spool.outbox)
    assert not [path for path in below(spool.inbox, "*.*") if path.is_file() and ".voicespool" not in path.parts]


def results_of_twins(results: list[str], first: str) -> list[str]:
    def plain(name: str) -> str:
        return unicodedata.normalize("NFC", name.partition("~")[0].casefold())

    return [name for name in results if plain(name) == plain(first.rpartition(".")[0])]


def said(spool: Spool, folder: str) -> str:
    return str(spool.manifest(folder)["request"]["text"])


def said_by(text: str) -> str:
    return text.split('"')[3]


def assert_is_result(spool: Spool, folder: str, text: str) -> None:
    manifest = spool.manifest(folder)
    files = {path.name: path for path in (spool.outbox / folder).iterdir()}
    stem = folder.rpartition("/")[2]
    (job_file,) = [name for name in files if name.startswith(stem) and not name.endswith(".wav")]
    assert files.keys() == {"manifest.json", f"{stem}.wav", job_file}
    assert files[job_file].read_text() == text
    assert manifest["source"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert manifest["request"]["text"] == said_by(text)


def assert_safe_on_every_system(outbox: Path) -> None:
    for folder, folders, files in os.walk(outbox):
        seen = set()
        for name in folders + files:
            assert name.encode().decode() == name
            assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in name)
            assert not set(name) & set('<>:"\\|?*'), name
            assert name[-1] not in " ."
            seen.add(unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold()))
        assert len(seen) == len(folders + files), f"names in {folder} that are one on some system"


def test_folders_and_jobs_of_one_name(spool: Spool) -> None:
    """A job `radio.yaml` beside a folder `radio/`, a folder `x.yaml/` with a job in it: no result lies in another."""
    for name in ("radio.yaml", "radio/hello.yaml", "x.yaml/inner.yaml", "x.yaml/x.yaml/x.yaml", "x.yml"):
        spool.drop(name, job(name))
    (spool.inbox / "empty.yaml").mkdir()
    assert spool.once().returncode == 0
    assert sorted(said(spool, folder) for folder in spool.results()) == [
        "radio.yaml", "radio/hello.yaml", "x.yaml/inner.yaml", "x.yaml/x.yaml/x.yaml", "x.yml"
    ]  # fmt: skip
    for folder in spool.results():
        inside = [path for path in below(spool.outbox / folder) if path.is_dir()]
        assert inside == [], f"{folder} holds {inside}"
    assert (spool.inbox / "empty.yaml").is_dir()


def test_a_path_as_long_as_paths_can_be(spool: Spool) -> None:
    """Folders in folders, nearly 4096 bytes of path: the result has a shorter one, and nobody else waits for it."""
    here = os.open(spool.inbox, os.O_RDONLY)
    room = 4000 - len(os.fsencode(spool.inbox))
    for name in ["?" * 70] * (room // 71):
        os.mkdir(name, dir_fd=here)
        deeper = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    with open("deep.yaml", "w", opener=lambda path, flags: os.open(path, flags, 0o666, dir_fd=here)) as file:
        file.write(job("Deep."))
    os.close(here)
    spool.drop("flat.yaml", job("Flat."))
    done = spool.once()
    assert done.returncode == 0, done.stderr
    assert sorted(said(spool, folder) for folder in spool.results()) == ["Deep.", "Flat."]


# --- what is no file -------------------------------------------------------------------------------------------------


def test_links_pipes_and_sockets_are_never_opened(tmp_path: Path) -> None:
    """Not as a job, not by a scan, not by an event, not as a recording; each shows up as ignored, with the reason."""
    with spooling(tmp_path / "spool") as spool:
        outside = spool.folder / "outside.yaml"
        outside.write_text(job("Never to be read."))
        (spool.folder / "elsewhere").mkdir()
        (spool.folder / "elsewhere" / "inner.yaml").write_text(job("Never to be read."))
        make_what_is_no_file(spool, "before")
        spool.start()
        make_what_is_no_file(spool, "after")
        os.mkfifo(spool.inbox / "voice.wav")
        with nobody_opens(*below(spool.inbox, "fifo.yaml"), spool.inbox / "voice.wav"):
            spool.drop("pipe-voice.yaml", "text: Hello.\nspeaker_wav: voice.wav\n")
            spool.drop("good.yaml", job("Good."))
            spool.result("good")
            assert "voice.wav is not a file" in error_text(spool, "pipe-voice.failed")
        reasons = {"link": "link is never", "dangling": "link is never", "fifo": "not a reg", "socket": "not a reg"}
        expected = {f"{when}/{kind}.yaml": why for when in ("before", "after") for kind, why in reasons.items()}
        ignored = until(lambda: all_listed(spool, expected))
        assert all(expected[name] in ignored[name] for name in expected), ignored
        assert "before/folder" in ignored
        assert spool.results() == ["good", "pipe-voice.failed"]
        for when in ("before", "after"):
            assert stat.S_ISFIFO(os.lstat(spool.inbox / when / "fifo.yaml").st_mode)
            assert (spool.inbox / when / "link.yaml").is_symlink()
        assert outside.read_text() == job("Never to be read.")
        assert spool.stop() == 0


@contextlib.contextmanager
def nobody_opens(*pipes: Path) -> Iterator[None]:
    """Writers stand at these pipes; opening one to read would let its writer in."""
    entered: list[Path] = []

    def enter(pipe: Path) -> None:
        with pipe.open("wb"):
            entered.append(pipe)

    writers = [threading.Thread(target=enter, args=(pipe,)) for pipe in pipes]
    for writer in writers:
        writer.start()
    try:
        yield
        assert entered == []
    finally:
        readers = [os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) for pipe in pipes]
        for writer in writers:
            writer.join()
        for reader in readers:
            os.close(reader)


def make_what_is_no_file(spool: Spool, when: str) -> None:
    folder = spool.inbox / when
    folder.mkdir()
    (folder / "link.yaml").symlink_to(spool.folder / "outside.yaml")
    (folder / "dangling.yaml").symlink_to("nowhere.yaml")
    (folder / "folder").symlink_to(spool.folder / "elsewhere")
    os.mkfifo(folder / "fifo.yaml")
    bound = socket.socket(socket.AF_UNIX)
    here = os.open(folder, os.O_RDONLY)  # the path is too long for the address of a socket
    bound.bind(f"/proc/self/fd/{here}/socket.yaml")
    os.close(here)
    bound.close()


def all_listed(spool: Spool, expected: dict[str, str]) -> dict[str, str]:
    """The ignored files and why, once all that are expected are among them; {} before."""
    ignored = {entry["file"]: entry["reason"] for entry in spool.status().get("ignored", ())}
    return ignored if expected.keys() <= ignored.keys() else {}


def error_text(spool: Spool, folder: str) -> str:
    return (spool.result(folder) / "ERROR.txt").read_text()


def test_a_folder_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    """A folder with a waiting job becomes a link to a folder outside: what lies there is not taken."""
    with spooling(tmp_path / "spool", ready={"scan_s": 0.2, "companions_s": 3600}) as spool:
        outside = spool.folder / "outside"
        outside.mkdir()
        (outside / "job.yaml").write_text(job("Not yours."))
        spool.drop("radio/job.yaml", "text: Mine.\nspeaker_wav: later.wav\n")
        spool.start()
        until(lambda: "radio/job.yaml" in {entry["file"] for entry in spool.status()["waiting"]})
        os.rename(spool.inbox / "radio", spool.folder / "aside")
        (spool.inbox / "radio").symlink_to(outside)
        until(lambda: not spool.status()["waiting"])
        spool.drop("last.yaml", job("Last."))
        spool.result("last")
        assert spool.results() == ["last"]
        assert (outside / "job.yaml").read_text() == job("Not yours.")


# --- what clients leave behind ---------------------------------------------------------------------------------------

LEFT_ALONE = (
    # macOS, Emacs, Office, Syncthing, Nextcloud, Dropbox, JetBrains, Vim
    "._hello.yaml", ".#hello.yaml", "#hello.yaml#", "~$hello.yaml",
    "hello.sync-conflict-20261121-101112-ABCDEFG.yaml", "hello_conflict-20261121-101112.yaml",
    "hello (conflicted copy 2026-11-21 101112).yaml", "hello (Ana's conflicted copy 2026-11-21).json",
    "hello.yaml___jb_tmp___", "hello.yaml___jb_old___", "4913", "hello.yaml~", ".hello.yaml.swp",
    # rsync, rclone, Syncthing, WinSCP, browsers, ownCloud, lftp
    ".hello.yaml.Ab3xYz", ".~tmp~/hello.yaml", ".rsync-partial/hello.yaml", "hello.yaml.1a2b3c4d.partial",
    ".syncthing.hello.yaml.tmp", "~syncthing~hello.yaml.tmp", ".stfolder/hello.yaml", "hello.yaml.filepart",
    "hello.yaml.part", "hello.yaml.ocTransferId123456", "hello.yaml.lftp-pget-status", "hello.yaml.crdownload",
    # file systems, systems, recycle bins
    ".nfs000000000123abcd", ".fuse_hidden0000000100000001", ".smbdeleteAAA1234", ".Trash-1000/files/hello.yaml",
    "@eaDir/hello.yaml", "#recycle/hello.yaml", ".DS_Store", "Thumbs.db", "desktop.ini", "lost+found/hello.yaml",
    "System Volume Information/hello.yaml", "$RECYCLE.BIN/S-1-5/hello.yaml", "hello.yaml:Zone.Identifier",
    # and what was never meant as a job
    "defaults.yaml", "radio/defaults.yaml", "notes.txt", "hello.yaml.bak", "hello.yaml.orig", "yaml", ".yaml",
    "hello.yaml\n", "new\nline.sync-conflict-20261121-101112-ABCDEFG.yaml", ".git/config.yaml",
)  # fmt: skip


def test_what_clients_leave_behind_is_left_alone(tmp_path: Path) -> None:
    """Every scratch, conflict and system file of the table lies there with a good job in it; none is one."""
    with spooling(tmp_path / "spool") as spool:
        for name in LEFT_ALONE[::2]:
            spool.drop(name, job("Not a job."))
        spool.start()
        for name in LEFT_ALONE[1::2]:
            spool.drop(name, job("Not a job."))
        spool.drop("hello.yaml", job("A job."))
        assert said(spool, "hello") == "A job."
        for name in LEFT_ALONE:
            assert (spool.inbox / name).read_text() == job("Not a job."), name
        told = [name.replace("\n", "\\x0a") for name in LEFT_ALONE]
        seen = until(lambda: ignored_now(spool, told))
        assert all(seen.values()), seen
        assert spool.results() == ["hello"]


def ignored_now(spool: Spool, names: list[str]) -> dict[str, str]:
    """Why each of these is ignored, by itself or with its folder; {} while one is missing."""
    ignored = {entry["file"]: entry["reason"] for entry in spool.status().get("ignored", ())}
    found = {name: ignored.get(name) or ignored.get(name.partition("/")[0] + "/", "") for name in names}
    return found if all(found.values()) else {}


def transfer_by_rclone(target: Path, text: str) -> None:
    """rclone: NAME.HASH.partial, then renamed."""
    scratch = target.with_name(target.name + ".1a2b3c4d.partial")
    scratch.write_text(text)
    os.rename(scratch, target)


def transfer_by_winscp(target: Path, text: str) -> None:
    """WinSCP above 100 KB: NAME.filepart, then renamed over whatever is there."""
    scratch = target.with_name(target.name + ".filepart")
    scratch.write_text(text)
    os.replace(scratch, target)


def transfer_by_syncthing(target: Path, text: str) -> None:
    """Syncthing: a hidden scratch file, an mtime from elsewhere, then renamed."""
    scratch = target.with_name(f".syncthing.{target.name}.tmp")
    scratch.write_text(text)
    os.utime(scratch, (1.7e9, 1.7e9))
    os.rename(scratch, target)


def transfer_by_smb(target: Path, text: str) -> None:
    """Windows Explorer on a share: full size first, then the bytes, then the mtime, all under the final name."""
    with target.open("wb") as file:
        file.truncate(len(text))
        file.write(text.encode())
        file.flush()
        os.utime(target, (1.7e9, 1.7e9))


def transfer_by_lftp(target: Path, text: str) -> None:
    """lftp pget: full size with holes, filled from the end, its notes beside it until it is done."""
    notes = target.with_name(target.name + ".lftp-pget-status")
    notes.touch()
    with target.open("wb") as file:
        file.truncate(len(text))
        for at in range(len(text) - 1, -1, -1):
            file.seek(at)
            file.write(text[at].encode())
    notes.unlink()


def transfer_by_scp(target: Path, text: str) -> None:
    """scp, for real (a local copy), keeping times."""
    program = shutil.which("scp")
    if program is None:
        pytest.skip("scp is not installed")
    source = target.parents[1] / "source.yaml"
    source.write_text(text)
    subprocess.run([program, "-p", source, target], check=True, capture_output=True, timeout=PATIENCE_S)


def test_transfers_of_real_clients(spool: Spool) -> None:
    """The file operations of rclone, WinSCP, Syncthing, SMB, lftp: one job each, the whole of it, twice over."""
    spool.start()
    clients = (transfer_by_rclone, transfer_by_winscp, transfer_by_syncthing, transfer_by_smb, transfer_by_lftp)
    for round_ in ("first", "second"):
        for client in clients:
            client(spool.inbox / f"{client.__name__}.yaml", job(f"{client.__name__} {round_}"))
        for client in clients:
            mark = "" if round_ == "first" else "~2"
            assert said(spool, client.__name__ + mark) == f"{client.__name__} {round_}"
    assert len(spool.results()) == 2 * len(clients)


def test_a_transfer_by_scp(spool: Spool) -> None:
    """scp -p, for real: written in place, then given the source's times."""
    spool.start()
    transfer_by_scp(spool.inbox / "copied.yaml", job("Copied."))
    assert said(spool, "copied") == "Copied."
