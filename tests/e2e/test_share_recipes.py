"""The recipes for shares in docs/OPERATIONS.md, followed word for word: SMB with a real Samba and its client. Lines
that need a kernel with NFS or CIFS are checked by the programs that read them, and nothing is mounted.
"""

from __future__ import annotations

import ctypes
import json
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import smb_upload
from tests.machine import Machine, become, machine
from tests.recipes import recipe
from tests.spooling import until

SPOOL = Path("/srv/voicespool")
CONFIG, STATUS = SPOOL / "config.yaml", SPOOL / ".voicespool-state/status.json"
JOB, CACHE = Path("/srv/job"), Path("/var/cache/voicespool")
ANA, BEN = "ana%secret", "ben%secret"
SMB_CONF = Path("/etc/samba/smb.conf")
GLOBAL = """\
[global]
server role = standalone server
map to guest = bad user
disable netbios = yes
load printers = no
disable spoolss = yes
"""
"""As Debian has it, without names and printers."""


def smb(server: Machine, share: str, *commands: str, user: str = ANA) -> str:
    """What smbclient prints for some commands."""
    done = server.run("smbclient", f"//127.0.0.1/{share}", "-U", user, "-c", "; ".join(commands))
    return done.stdout + done.stderr


def refusals(printed: str) -> int:
    """How many commands the server refused."""
    return printed.count("NT_STATUS_")


def all_refused(server: Machine, share: str, *commands: str) -> None:
    """Ana tries each command, and has no success with any."""
    printed = smb(server, share, *commands)
    assert refusals(printed) == len(commands), (commands, printed)


def found_in(folder: Path) -> dict[str, bytes]:
    """Names and contents of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def serving(*users: str) -> Iterator[Machine]:
    """A machine on which the recipes for a group and for SMB were followed, with users who have a password for Samba.
    All but a stranger are members.
    """
    with machine("smbd", "smbclient", "smbpasswd") as server:
        for user in users:
            server.does("useradd", user)
        server.follow("group")
        for user in set(users) - {"ana", "stranger"}:  # ana is in the recipe
            server.does("usermod", "--append", "--groups", "voicespool", user)
        for folder in ("/var/lib/samba/private", "/var/cache/samba", "/var/log/samba", "/run/samba"):
            Path(folder).mkdir(parents=True)
        SMB_CONF.parent.mkdir(exist_ok=True)
        SMB_CONF.write_text("\n".join([GLOBAL, *recipe("smb")]))
        for user in users:
            server.does("smbpasswd", "-a", user, stdin="secret\nsecret\n")
        with server.service("smbd", "--foreground", "--no-process-group", "--debug-stdout"):
            until(lambda: not refusals(smb(server, "outbox", "ls")), lambda: smb(server, "outbox", "ls"))
            yield server


@contextmanager
def spool(server: Machine) -> Iterator[None]:
    """The daemon, with the user, the umask, the cache and the only power that it has under the unit in deploy/."""
    server.does("install", "--directory", "--owner=voicespool", CACHE)
    words = become("voicespool", "lease")
    if server.run(*words, "true").returncode != 0:
        pytest.skip("CAP_LEASE is not to be had here")
    running = ("env", f"VOICESPOOL_CACHE={CACHE}", "voicespool", "--config", str(CONFIG), "run")
    with server.service(*words, *running, umask=0o027):
        until(STATUS.exists, server.log.read_text)
        yield
    assert '"warning"' not in server.log.read_text()


def test_smb() -> None:
    """Members drop jobs into the inbox and into a new folder, and read results. Nothing else works: to change a result,
    to look into the state or to move it, to touch another member's file, to get in without being a member.
    """
    with serving("ana", "ben", "stranger") as server:
        with spool(server):
            _members_drop_and_read(server)
            _results_are_nobodys_to_change(server)
            _files_of_others_stay(server)
            _state_stays(server, "../.voicespool-state")
        (SPOOL / ".voicespool-state").rename(SPOOL / "inbox/.voicespool")  # as an older spool has it
        _state_stays(server, ".voicespool")
        for who in ("stranger%secret", "ana%wrong", "nobody%", "%"):
            for share in ("inbox", "outbox"):
                assert refusals(smb(server, share, "ls", user=who)) == 1, (share, who)


def test_slow_upload_over_smb() -> None:
    """A job file that a client still has open is not taken, although what is there by then would be a job."""
    try:
        ctypes.CDLL(smb_upload.LIBRARY)
    except OSError:
        pytest.skip(f"{smb_upload.LIBRARY} is not installed here")
    with serving("ana") as server, spool(server):
        words = [sys.executable, smb_upload.__file__, "smb://ana:secret@127.0.0.1/inbox/slow.yaml"]
        with subprocess.Popen(words, env=server.variables, stdin=subprocess.PIPE, text=True, bufsize=1) as client:
            assert client.stdin is not None
            client.stdin.write("text: Half of it\n")
            until(lambda: "a program has it open for writing" in STATUS.read_text(), STATUS.read_text)
            client.stdin.write("  and the rest.\n")
        assert client.returncode == 0
        result = SPOOL / "outbox/slow"
        until(result.is_dir, server.log.read_text)
        assert (result / "slow.yaml").read_text() == "text: Half of it\n  and the rest.\n"


def _members_drop_and_read(server: Machine) -> None:
    JOB.write_text("text: Hello.\n")
    assert not refusals(smb(server, "inbox", f"put {JOB} hello.yaml", "mkdir team", f"put {JOB} team/news.yaml"))
    assert not refusals(smb(server, "inbox", f"put {JOB} notes.txt", user=BEN))
    assert stat.S_IMODE((SPOOL / "inbox/notes.txt").stat().st_mode) == 0o640
    for name, user in (("hello", ANA), ("team/news", BEN)):
        result = SPOOL / "outbox" / name
        until(result.is_dir, lambda: server.log.read_text()[-3000:])
        gets = (f"get {name}/manifest.json /srv/got", f"get {name}/{result.name}.wav /srv/wav")
        printed = smb(server, "outbox", *gets, user=user)
        assert not refusals(printed), printed
        assert json.loads(Path("/srv/got").read_bytes())["status"] == "done"
        assert Path("/srv/wav").read_bytes() == (result / f"{result.name}.wav").read_bytes()


def _results_are_nobodys_to_change(server: Machine) -> None:
    server.does("chmod", "-R", "g+w", SPOOL / "outbox/hello")  # as results.mode may have it: the share refuses too
    before = found_in(SPOOL / "outbox/hello")
    all_refused(server, "outbox", f"put {JOB} x.yaml", "mkdir x", "rename hello mine", f"put {JOB} hello/x.yaml",
                f"put {JOB} hello/hello.wav", "rename hello/hello.wav x.wav", "rm hello/hello.wav")  # fmt: skip
    assert found_in(SPOOL / "outbox/hello") == before
    assert sorted(path.name for path in (SPOOL / "outbox").iterdir()) == [".voicespool", "hello", "team"]


def _files_of_others_stay(server: Machine) -> None:
    all_refused(server, "inbox", "rename notes.txt mine.txt", "rm notes.txt", f"put {JOB} notes.txt")
    assert not refusals(smb(server, "inbox", "rename notes.txt mine.txt", "rm mine.txt", user=BEN))


def _state_stays(server: Machine, state: str) -> None:
    all_refused(server, "inbox", f"ls {state}/*", f"rename {state} mine", f"get {state}/lock /srv/lock",
                f"put {JOB} {state}/x", f"rmdir {state}")  # fmt: skip


def test_smb_mounted_here() -> None:
    """mount(8) and mount.cifs(8) accept the line in fstab; they find its user, its group and its credentials. Nothing
    is mounted.
    """
    with machine("mount.cifs", "findmnt") as client:
        client.does("useradd", "--system", "--user-group", "voicespool")
        SPOOL.mkdir()
        Path("/etc/voicespool.smb").write_text("username=ana\npassword=secret\n")
        Path("/etc/hosts").write_text("127.0.0.1 server\n")
        Path("/etc/fstab").write_text("\n".join([*recipe("smb-mounted"), ""]))
        client.does("findmnt", "--verify")
        options = client.does("mount", "--fake", "--verbose", SPOOL)
        daemon = pwd.getpwnam("voicespool")
        for option in (f"uid={daemon.pw_uid}", f"gid={daemon.pw_gid}", "file_mode=0640", "dir_mode=0750", "user=ana"):
            assert f",{option}," in options


def test_nfs() -> None:
    """exportfs(8) accepts the exports without a warning: the inbox can be written, the outbox only read, and root of
    another machine is nobody here. Nothing is served.
    """
    with machine("exportfs") as server:
        server.does("useradd", "ana")
        server.follow("group")
        Path("/var/lib/nfs").mkdir(parents=True)
        Path("/var/lib/nfs/etab").touch()
        Path("/etc/exports").write_text("\n".join([*recipe("nfs"), ""]))
        assert server.does("exportfs", "-a") == ""
        exported = dict(line.split(maxsplit=1) for line in server.does("exportfs", "-s").splitlines())
        assert exported.keys() == {"/srv/voicespool/inbox", "/srv/voicespool/outbox"}
        for folder, access in (("inbox", "rw"), ("outbox", "ro")):
            assert {access, "root_squash", "sync"} <= set(re.findall(r"\w+", exported[f"/srv/voicespool/{folder}"]))
