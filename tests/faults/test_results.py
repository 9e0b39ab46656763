"""How the real daemon publishes: what it does with an older result, and whose the new one is."""

from __future__ import annotations

import os
import stat

from tests.depriving import as_an_ordinary_user
from tests.spooling import Spool, below


def test_replace_moves_the_older_result_aside_and_leaves_other_things_alone(spool: Spool) -> None:
    """`results.on_existing: replace`: one result of the name, never none for long; a folder that is no result stays."""
    spool.config["results"] = {"on_existing": "replace"}
    spool.drop("a.yaml", "text: First.\n")
    assert spool.once().returncode == 0
    (spool.outbox / "b").mkdir()
    (spool.outbox / "b" / "notes.txt").write_text("mine")
    spool.drop("a.yaml", "text: Second.\n")
    spool.drop("b.yaml", "text: Beside.\n")
    assert spool.once().returncode == 0
    assert spool.manifest("a")["request"]["text"] == "Second."
    assert spool.results() == ["a", "b~2"]
    assert (spool.outbox / "b" / "notes.txt").read_text() == "mine"
    assert not below(spool.outbox / ".voicespool", "manifest.json")


def test_number_keeps_the_older_results(spool: Spool) -> None:
    """The default: the later one takes the number, the files in it keep their name."""
    spool.start()
    for text, name in (("First.", "a"), ("Second.", "a~2"), ("Third.", "a~3")):
        spool.drop("a.yaml", f"text: {text}\n")
        spool.result(name)
    assert spool.results() == ["a", "a~2", "a~3"]
    assert spool.manifest("a")["request"]["text"] == "First."
    assert spool.manifest("a~3")["request"]["text"] == "Third."
    assert (spool.outbox / "a~3" / "a.wav").is_file()


def test_mode_and_group_of_all_that_is_published(spool: Spool) -> None:
    """`results.mode` and `results.group`: folders, files, and the folders of subfolders; set before it is seen."""
    group = next((number for number in os.getgroups() if number != os.getegid()), os.getegid())
    if os.geteuid() == 0:
        group = 12345
    spool.config["results"] = {"mode": "2750", "group": group}
    spool.drop("radio/a.yaml")
    spool.drop("radio/bad.yaml", "txt: wrong key\n")
    assert spool.once().returncode == 1
    folders = [spool.outbox / "radio", spool.outbox / "radio" / "a", spool.outbox / "radio" / "bad.failed"]
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o2750, folder
        assert folder.stat().st_gid == group
    files = [path for folder in folders[1:] for path in folder.iterdir()]
    assert len(files) == 6
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o640, file
        assert file.stat().st_gid == group


def test_without_mode_the_umask_decides(spool: Spool) -> None:
    spool.prefix = ("sh", "-c", 'umask 027 && exec "$@"', "sh")
    spool.drop("a.yaml")
    assert spool.once().returncode == 0
    assert stat.S_IMODE((spool.outbox / "a").stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in (spool.outbox / "a").iterdir()} == {0o640}


def test_a_group_that_is_not_ours_to_give_is_a_hold(spool: Spool) -> None:
    """The operator's mistake fails no job."""
    spool.prefix = as_an_ordinary_user()
    stranger = max(os.getgroups(), default=0) + 4321
    spool.config["results"] = {"group": stranger}
    spool.drop("a.yaml")
    ended = spool.once()
    assert ended.returncode == 75
    assert "Operation not permitted" in ended.stderr
    assert len(spool.claims()) == 1
    del spool.config["results"]
    assert spool.once().returncode == 0
    assert spool.results() == ["a"]
