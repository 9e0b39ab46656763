"""The command that frees a held file, for each way in which modes refuse."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.two_users import DAEMON, MEMBER, STRANGER, User, everybodys_python
from watcher.daemon.refusals import reason

TELL = """
import sys
from pathlib import Path
from watcher.daemon.refusals import reason
print(reason("it can't be read", Path(sys.argv[1]), sys.argv[2], PermissionError(13, "Permission denied")), end="")
"""


@pytest.mark.parametrize(
    ("owner", "folder_mode", "file_mode", "cure"),
    [
        (MEMBER, 0o2770, 0o600, "chmod a+r {file}"),
        (MEMBER, 0o2755, 0o644, "chmod g+rwx {folder}"),
        (MEMBER, 0o2700, 0o644, "chmod g+rwx {folder}"),
        (DAEMON, 0o500, 0o644, "chmod u+rwx {folder}"),
        (MEMBER, 0o3770, 0o644, "chmod -t {folder}"),
        (STRANGER, 0o755, 0o644, "chgrp {group} {folder} && chmod g+rwx {folder}"),
    ],
)
def test_the_command_frees_the_file(owner: User, folder_mode: int, file_mode: int, cure: str) -> None:
    """It is named, and once its owner has given it, nothing refuses any more."""
    import tempfile

    python = everybodys_python()
    with tempfile.TemporaryDirectory(prefix="voicespool-test-", dir="/tmp") as name:
        inbox = Path(name)
        inbox.chmod(0o755)
        folder = inbox / "it's a team"
        file = folder / "a.yaml"
        folder.mkdir()
        file.touch()
        for path, mode in ((folder, folder_mode), (file, file_mode)):
            os.chown(path, owner.uid, STRANGER.gid if owner is STRANGER else DAEMON.gid)
            path.chmod(mode)
        quoted = "'" + str(folder).replace("'", "'\"'\"'")
        words = {"folder": f"{quoted}'", "file": f"{quoted}/a.yaml'", "group": DAEMON.gid}
        told = DAEMON.run(python.path, "-c", TELL, inbox, "it's a team/a.yaml")
        command = cure.format(**words)
        assert told.stdout == f"it can't be read: Permission denied; to free it: {command}"
        helper = User(owner.uid, owner.gid, (DAEMON.gid,))
        assert helper.run("sh", "-c", command).returncode == 0
        taken = DAEMON.run("sh", "-c", f"cat {words['file']} && mv {words['file']} {words['folder']}/b")
        assert taken.returncode == 0, taken.stderr


def test_what_modes_do_not_decide_has_no_command(tmp_path: Path) -> None:
    """A read-only or a broken file system, and a file that is gone."""
    for code in (errno.EROFS, errno.EIO):
        assert reason("it can't be read", tmp_path, "a.yaml", OSError(code, os.strerror(code))) == (
            f"it can't be read: {os.strerror(code)}"
        )
    gone = PermissionError(errno.EACCES, "Permission denied")
    assert "to free it" not in reason("it can't be read", tmp_path, "b/", gone)
