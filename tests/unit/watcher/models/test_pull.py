"""A base model arrives whole and right, or not at all, and no byte is fetched twice without need."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engines.checkpoints.base_models import BaseModel, PublishedFile
from engines.errors import EngineMissing
from tests.hub import F5, XTTS, Hub, f5_release, hub, noise, place, published, release
from watcher.models import pull

FILES = release(noise(300_000))
MODEL = published(FILES)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the release, and is the one that is asked."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with hub(dict(FILES)) as one:
        monkeypatch.setenv("HF_ENDPOINT", one.address + "/")
        yield one


def fetch(models: Path, model: BaseModel = MODEL, waits_s: tuple[float, ...] = (0.0, 0.0)) -> Path:
    return pull.pull(model, models, "flag", lambda *_: None, waits_s)


def begun(models: Path) -> Path:
    """Where an unfinished download lies."""
    return models / ".pull-xtts" / MODEL.revision


def test_model_appears_with_a_record_and_nothing_else(served: Hub, tmp_path: Path) -> None:
    """All files, byte for byte; where they came from, and that the licence was accepted; no scraps."""
    told: list[tuple[str, int, int]] = []
    folder = pull.pull(MODEL, tmp_path / "models", "question", lambda *words: told.append(words))
    assert folder == tmp_path / "models" / "xtts-v2"
    record = json.loads((folder / "pulled.json").read_bytes())
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "pulled.json"} == FILES
    assert record["source"] == f"{served.address}/coqui/XTTS-v2"
    assert record["revision"] == XTTS.revision
    assert record["licence"]["accepted_by"] == "question"
    assert record["sha256"] == {file.name: file.sha256 for file in MODEL.files}
    assert os.listdir(tmp_path / "models") == ["xtts-v2"]
    assert served.names() == list(FILES)
    assert told[-1] == ("checking model.pth", MODEL.size_bytes, MODEL.size_bytes)
    assert [done for _what, done, _total in told] == sorted(done for _what, done, _total in told)


def test_broken_connection_is_taken_up_where_it_broke(served: Hub, tmp_path: Path) -> None:
    """Within one run: the rest is asked for by range, and every byte is sent once."""
    served.cut["model.pth"] = 123_456
    folder = fetch(tmp_path)
    assert (folder / "model.pth").read_bytes() == FILES["model.pth"]
    assert served.asked[-1][:2] == ("model.pth", 123_456)
    assert served.sent == MODEL.size_bytes


def test_next_run_goes_on_where_the_last_one_gave_up(served: Hub, tmp_path: Path) -> None:
    """What has come is kept, out of sight; the second run asks for nothing that is there."""
    served.cut["model.pth"] = 200_000
    with pytest.raises(
        EngineMissing, match=r"did not send model\.pth: the connection ended 100000 bytes early"
    ) as caught:
        fetch(tmp_path, waits_s=())
    assert "resumes" in caught.value.hint
    assert os.listdir(tmp_path) == [".pull-xtts"]
    assert pull.state(MODEL, tmp_path)["downloaded_bytes"] == MODEL.size_bytes - 100_000
    served.asked.clear()
    assert fetch(tmp_path) == tmp_path / "xtts-v2"
    assert [request[:2] for request in served.asked] == [("model.pth", 200_000)]
    assert served.sent == MODEL.size_bytes


def test_patience_is_for_those_who_bring_something(served: Hub, tmp_path: Path) -> None:
    """A connection that breaks again and again is used as long as each brings a part."""

    class Breaking(dict[str, int]):
        def pop(self, *arguments: object) -> int:  # every connection breaks
            return 50_000

    served.cut = Breaking()
    assert (fetch(tmp_path, waits_s=(0.0,)) / "model.pth").read_bytes() == FILES["model.pth"]
    assert [start for name, start, _token in served.asked if name == "model.pth"] == list(range(0, 300_000, 50_000))


def test_server_without_ranges(served: Hub, tmp_path: Path) -> None:
    """What had come is replaced, not added to."""
    served.ranges = False
    served.cut["model.pth"] = 100_000
    assert (fetch(tmp_path) / "model.pth").read_bytes() == FILES["model.pth"]


def test_damaged_bytes_are_noticed_and_removed(served: Hub, tmp_path: Path) -> None:
    """One wrong byte: the file is removed, and said to be wrong; the next run fetches that file alone."""
    served.files["model.pth"] = FILES["model.pth"][:-1] + b"?"
    with pytest.raises(EngineMissing, match=r"model\.pth from .* was removed"):
        fetch(tmp_path)
    assert not (begun(tmp_path) / "model.pth").exists()
    assert not (tmp_path / "xtts-v2").exists()
    served.files["model.pth"] = FILES["model.pth"]
    served.asked.clear()
    assert fetch(tmp_path).is_dir()
    assert served.names() == ["model.pth"]


def test_rotten_part_is_noticed(served: Hub, tmp_path: Path) -> None:
    """A part that was spoilt on the disk between two runs does not become a model."""
    place(begun(tmp_path), {"model.pth": b"\0" * 1000})
    with pytest.raises(EngineMissing, match=r"model\.pth from .* does not have the SHA-256"):
        fetch(tmp_path)
    assert fetch(tmp_path).is_dir()


def test_longer_answer_than_published(served: Hub, tmp_path: Path) -> None:
    """No more is written than the file may be long."""
    served.files["model.pth"] = FILES["model.pth"] + noise(5000)
    assert (fetch(tmp_path) / "model.pth").read_bytes() == FILES["model.pth"]


def test_scraps_of_another_revision_are_removed(served: Hub, tmp_path: Path) -> None:
    """Parts of what is not published any more don't mix with what is, and don't stay."""
    place(tmp_path / ".pull-xtts" / "0123456", {"model.pth": b"old"})
    place(begun(tmp_path), {"pulled.json": b"{}", "old.bin": b"?"})
    folder = fetch(tmp_path)
    assert os.listdir(tmp_path) == ["xtts-v2"]
    assert sorted(os.listdir(folder)) == sorted([*FILES, "pulled.json"])


@pytest.mark.parametrize(("status", "said"), [(404, "404 Not Found"), (401, "401 Unauthorized")])
def test_hub_without_the_model(served: Hub, tmp_path: Path, status: int, said: str) -> None:
    """Said at once, with what may be the cause."""
    served.status = status
    with pytest.raises(
        EngineMissing, match=f"{served.address}/coqui/XTTS-v2 did not send LICENSE.txt: {said}"
    ) as caught:
        fetch(tmp_path, waits_s=(60.0,))
    assert "HF_ENDPOINT" in caught.value.hint


def test_hub_in_trouble(served: Hub, tmp_path: Path) -> None:
    """A server's own error at the very first is no reason to wait."""
    place(begun(tmp_path), {name: data for name, data in FILES.items() if name != "model.pth"})
    served.status = 503
    with pytest.raises(EngineMissing, match=r"did not send model\.pth: 503 Service Unavailable"):
        fetch(tmp_path, waits_s=(60.0,))


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a network it is said at once, with the way for machines that never have one."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with hub({}) as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.address)
        monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(EngineMissing, match=r"did not send LICENSE\.txt: Connection refused") as caught:
        fetch(tmp_path, waits_s=(60.0,))
    assert "copy the model's folder from another machine to models/xtts-v2" in caught.value.hint


@pytest.mark.parametrize("setting", ["HF_HUB_OFFLINE=1", "HF_ENDPOINT=file:///etc"])
def test_wrong_environment(served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str) -> None:
    """Nothing is asked for, nothing is made."""
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(EngineMissing, match=name):
        fetch(tmp_path)
    assert served.asked == []
    assert os.listdir(tmp_path) == []


def test_token_stays_with_the_hub(served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host that a hub sends on to does not see it."""
    monkeypatch.setenv("HF_TOKEN", "secret\n")
    with hub(dict(FILES)) as other:
        served.elsewhere = other.address
        assert fetch(tmp_path).is_dir()
    assert {token for _name, _start, token in served.asked} == {"Bearer secret"}
    assert {token for _name, _start, token in other.asked} == {None}


def test_files_in_folders_of_their_own(served: Hub, tmp_path: Path) -> None:
    """Some repositories have folders; what came into them counts in the next run too."""
    served.files["base/model.pth"] = FILES["model.pth"]
    nested = published({"base/model.pth": FILES["model.pth"]})
    served.cut["base/model.pth"] = 1000
    with pytest.raises(EngineMissing):
        fetch(tmp_path, nested, waits_s=())
    assert (fetch(tmp_path, nested) / "base" / "model.pth").read_bytes() == FILES["model.pth"]
    assert [start for _name, start, _token in served.asked] == [0, 1000]


def test_what_the_files_do_not_say_is_noted_beside_them(served: Hub, tmp_path: Path) -> None:
    """From its own repository and revision; a note that an interrupted run left is written again."""
    model = published(f5_release(), F5)
    served.others = ((F5, f5_release()),)
    scraps = {name: b"half" for name, _content in F5.notes}
    place(tmp_path / ".pull-f5" / F5.revision, scraps)
    folder = fetch(tmp_path, model)
    notes = {name: content.encode() for name, content in F5.notes}
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    record = json.loads(found.pop("pulled.json"))
    assert found == f5_release() | notes
    assert (record["source"], record["revision"]) == (f"{served.address}/SWivid/F5-TTS", F5.revision)
    assert pull.present(F5, tmp_path, anywhere=False) == folder


def test_disk_too_small(served: Hub, tmp_path: Path) -> None:
    """Known before anything is asked for."""
    huge = replace(MODEL, files=(PublishedFile("model.pth", 1 << 60, "0" * 64),))
    with pytest.raises(EngineMissing, match=r"has [\d,]+ MB free; the model needs 1,152,921,504,674 MB"):
        fetch(tmp_path, huge)
    assert served.asked == []


def test_disk_that_fills_up(served: Hub, tmp_path: Path) -> None:
    """Said as what it is, without another try."""
    begun(tmp_path).mkdir(parents=True)
    (begun(tmp_path) / "model.pth").symlink_to("/dev/full")
    with pytest.raises(EngineMissing, match=r"the disk of .* is full") as caught:
        fetch(tmp_path, waits_s=(60.0,))
    assert caught.value.hint.startswith("Free disk space.")


def test_folder_that_is_there_is_not_touched(served: Hub, tmp_path: Path) -> None:
    """What somebody copied by half is theirs; an empty folder is no hindrance."""
    place(tmp_path / "xtts-v2", {"model.pth": b"half"})
    with pytest.raises(EngineMissing, match="exists, but does not hold the whole model"):
        fetch(tmp_path)
    assert served.asked == []
    (tmp_path / "xtts-v2" / "model.pth").unlink()
    assert fetch(tmp_path).is_dir()


def test_verify_names_what_differs(served: Hub, tmp_path: Path) -> None:
    folder = fetch(tmp_path)
    pull.verify(MODEL, folder, lambda *_: None)
    place(folder, {"model.pth": FILES["model.pth"][:-1] + b"?", "vocab.json": b""})
    with pytest.raises(EngineMissing, match=r"not as published: vocab\.json, model\.pth"):
        pull.verify(MODEL, folder, lambda *_: None)
