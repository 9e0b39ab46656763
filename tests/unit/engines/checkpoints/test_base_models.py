"""A base model is found where its tools leave it, and nothing else is taken for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from engines.checkpoints import base_models
from engines.checkpoints.base_models import BASE_MODELS, find, require
from engines.checkpoints.inspection import inspect
from engines.errors import EngineMissing
from tests.hub import F5, XTTS, f5_release, place, vocos_release, weights, zeros

SMALL = {"config.json": b"{}", "vocab.json": b"{}"}
VARIABLES = (
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TTS_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that are recognised; linked to from wherever they are wanted."""
    return place(tmp_path_factory.mktemp("weights"), {"model.pth": weights()}) / "model.pth"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without any cache, and no setting that leads elsewhere."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(folder: Path, weights: Path) -> Path:
    """A complete model."""
    place(folder, SMALL)
    (folder / "model.pth").symlink_to(weights)
    return folder


def snapshot(cache: Path, repository: str, revision: str) -> Path:
    return cache / f"models--{repository.replace('/', '--')}" / "snapshots" / revision


def test_places_are_tried_in_the_order_that_is_documented(tmp_path: Path, home: Path, whole: Path) -> None:
    """models/xtts-v2, models/ by another name, coqui's cache, the hub's: original, then mirror."""
    hub = home / ".cache/huggingface/hub"
    places = [
        tmp_path / "models" / "xtts-v2",
        tmp_path / "models" / "XTTS",
        home / ".local/share/tts/tts_models--multilingual--multi-dataset--xtts_v2",
        snapshot(hub, "coqui/XTTS-v2", XTTS.revision),
        snapshot(hub, "tts-hub/XTTS-v2", "0123"),
    ]
    for folder in places:
        put(folder, whole)
    for folder in places:
        assert find("xtts", tmp_path / "models") == folder
        shutil.rmtree(folder)
    assert find("xtts", tmp_path / "models") is None


@pytest.mark.parametrize(
    "name", ["xtts", "XTTS-v2", "xtts_v2", "XTTSv2", "tts_models--multilingual--multi-dataset--xtts_v2"]
)
def test_names_of_folders_copied_by_hand(tmp_path: Path, whole: Path, name: str) -> None:
    folder = put(tmp_path / name, whole)
    assert find("xtts", tmp_path) == folder


@pytest.mark.parametrize("name", ["ana", "xtts-ana", "xtts_v2_ft", "xtts-v2.old", ".pull-xtts", "run/xtts-v2", "."])
def test_other_models_are_never_taken_for_it(tmp_path: Path, whole: Path, name: str) -> None:
    """A fine-tuned model has the same files: its name tells it apart. Nor is a download that is not finished."""
    put(tmp_path / name, whole)
    assert find("xtts", tmp_path) is None
    assert list(base_models.candidate_folders(XTTS, tmp_path)) == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vocab.json", None, "vocab.json missing or empty"),
        ("config.json", b"", "config.json missing or empty"),
        ("model.pth", None, "model.pth or model.safetensors missing or empty"),
        ("model.pth", b"<html>", "model.pth can't be used: it is a web page"),
        ("model.pth", b"half", "model.pth can't be used: "),
    ],
)
def test_half_a_model_is_passed_over(tmp_path: Path, whole: Path, name: str, content: bytes | None, said: str) -> None:
    """The next place is tried; the fault can be told."""
    broken = put(tmp_path / "xtts-v2", whole)
    (broken / name).unlink()
    if content is not None:
        (broken / name).write_bytes(content)
    assert base_models.fault(XTTS, broken).startswith(said)
    assert find("xtts", tmp_path) is None
    assert find("xtts", put(tmp_path / "xtts", whole).parent) == tmp_path / "xtts"


def test_cut_off_and_strange_weights(tmp_path: Path, whole: Path) -> None:
    """The header tells: bytes are missing at the end, tensors are missing, or it is something else."""
    broken = put(tmp_path / "xtts-v2", whole)
    (broken / "model.pth").unlink()
    shutil.copy(whole, broken / "model.pth")
    os.truncate(broken / "model.pth", whole.stat().st_size - 1)
    assert "cut off: 1 bytes are missing" in base_models.fault(XTTS, broken)
    place(broken, {"model.pth": zeros({"codebook.embed": (1, 1)})})
    assert base_models.fault(XTTS, broken).startswith("model.pth is the DVAE")


def test_safetensors_will_do(tmp_path: Path, whole: Path) -> None:
    put(tmp_path / "xtts", whole)
    (tmp_path / "xtts" / "model.pth").rename(tmp_path / "xtts" / "model.safetensors")
    assert find("xtts", tmp_path) == tmp_path / "xtts"


def test_of_several_revisions_the_last_main_is_used(home: Path, whole: Path) -> None:
    """As the hub's library would; where that is not known or not whole, the one that is published, then any."""
    hub = home / ".cache/huggingface/hub"
    other, pinned = (put(snapshot(hub, XTTS.repository, name), whole) for name in ("0123", XTTS.revision))
    assert find("xtts", None) == pinned
    place(pinned.parents[1] / "refs", {"main": b"0123\n"})
    assert find("xtts", None) == other
    (other / "vocab.json").unlink()
    assert find("xtts", None) == pinned


@pytest.mark.parametrize(
    "setting", ["HF_HUB_CACHE={}/a", "HUGGINGFACE_HUB_CACHE={}/b", "HF_HOME={}/c", "XDG_CACHE_HOME={}/d", "HF_HOME=~/e"]
)
def test_hub_cache_is_where_the_library_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """The same answer as the library itself gives."""
    pytest.importorskip("huggingface_hub")
    name, _, value = setting.format(tmp_path).partition("=")
    monkeypatch.setenv(name, value)
    ask = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert str(base_models._hub_cache()) == done.stdout.strip()


@pytest.mark.parametrize(
    ("setting", "data"), [("TTS_HOME={}/a", "a"), ("XDG_DATA_HOME={}/b", "b"), ("TTS_HOME=~/c", "home/c")]
)
def test_coqui_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path, setting: str, data: str) -> None:
    """In `tts` below the folder that is set."""
    name, _, value = setting.format(tmp_path).partition("=")
    monkeypatch.setenv(name, value)
    folder = put(tmp_path / data / "tts" / "tts_models--multilingual--multi-dataset--xtts_v2", whole)
    assert find("xtts", None) == folder


def test_missing_model_names_its_cure(tmp_path: Path) -> None:
    """Which command brings it, and what was found in its place; nothing in a name steers a terminal."""
    with pytest.raises(EngineMissing, match="the model XTTS-v2 is not on this machine") as caught:
        require("xtts", tmp_path / "\x1b[2J")
    assert "`voicespool models pull xtts`" in caught.value.hint
    place(tmp_path / "xtts_v2", {"model.pth": b"?"})
    with pytest.raises(EngineMissing, match=r"xtts_v2' is not usable: config\.json, vocab\.json missing or empty"):
        require("xtts", tmp_path)


def test_f5_is_found_where_its_library_leaves_it(tmp_path: Path, home: Path) -> None:
    """models/ by any name, with the repository's folders or flat; the hub's cache, where vocab.txt is missing."""
    hub = snapshot(home / ".cache/huggingface/hub", "SWivid/F5-TTS", "0123")
    _vocabulary, weights = f5_release()
    flat = {Path(name).name: data for name, data in f5_release().items()}
    places = {
        tmp_path / "f5-tts-v1": f5_release(),
        tmp_path / "F5TTS_v1_Base": flat,
        hub: {weights: f5_release()[weights]},
    }
    for folder, files in places.items():
        place(folder, files)
    for folder, files in places.items():
        assert find("f5", tmp_path) == folder
        assert base_models.weights("f5", tmp_path) == next(folder / name for name in files if "model" in name)
        shutil.rmtree(folder)
    assert find("f5", tmp_path) is None


def test_other_models_of_f5_are_never_taken_for_it(tmp_path: Path, home: Path) -> None:
    """Those of before version 1.0 lie in the same repository; what they are leaves no trace in the file."""
    hub = snapshot(home / ".cache/huggingface/hub", "SWivid/F5-TTS", F5.revision)
    _vocabulary, weights = f5_release().values()
    place(hub, {"F5TTS_Base/model_1200000.safetensors": weights})
    place(tmp_path / "f5-tts", {"model_1200000.safetensors": weights})
    place(tmp_path / "ana", {"model_1250000.safetensors": weights})
    assert find("f5", tmp_path) is None
    assert "F5TTS_v1_Base/model_*.safetensors or model_1250000.safetensors missing or empty" in base_models.fault(
        F5, hub
    )
    place(tmp_path / "f5-tts", {"model_1250000.safetensors": vocos_release()["pytorch_model.bin"]})
    assert base_models.fault(F5, tmp_path / "f5-tts") == "model_1250000.safetensors is a Vocos vocoder"


def test_vocos_is_found_alone_or_in_the_folder_of_f5(tmp_path: Path, home: Path) -> None:
    """In models/, beside the files of F5-TTS, in the hub's cache; whole, or passed over."""
    hub = snapshot(home / ".cache/huggingface/hub", "charactr/vocos-mel-24khz", "0123")
    places = [tmp_path / "vocos-mel-24khz", tmp_path / "vocos", tmp_path / "F5-TTS/vocos", hub]
    for folder in places:
        place(folder, vocos_release())
    for folder in places:
        assert require("vocos", tmp_path) == folder
        (folder / "config.yaml").unlink()
    with pytest.raises(
        EngineMissing, match=r"Vocos .* is not on this machine; .*config\.yaml missing or empty"
    ) as caught:
        require("vocos", tmp_path)
    assert "`voicespool models pull vocos`" in caught.value.hint


def test_weights_that_are_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the use: words, no traceback."""
    monkeypatch.setattr(base_models, "require", lambda *_arguments: tmp_path)
    with pytest.raises(EngineMissing, match=r"the model F5-TTS v1 Base was removed just now"):
        base_models.weights("f5", tmp_path)


def test_what_is_pulled_tells_its_variant(tmp_path: Path) -> None:
    """The tensors of v0 and v1 are the same: a note beside them says which it is."""
    folder = place(tmp_path / F5.folder, f5_release())
    weights = base_models.weights("f5", tmp_path)
    variant = inspect(weights).variant
    assert variant is not None
    assert variant.name == "unknown"
    place(folder, {name: content.encode() for name, content in F5.notes})
    variant = inspect(weights).variant
    assert variant is not None
    assert variant.name == "v1"


def test_bigvgan_is_used_where_it_is_and_not_pulled(tmp_path: Path, home: Path) -> None:
    """Known by its header, under models/ or in the hub's cache; where it is not, its files and their place are said."""
    files = {"config.json": b"{}", "bigvgan_generator.pt": zeros({"generator.activation_post.act.alpha": (4,)})}
    hub = snapshot(home / ".cache/huggingface/hub", "nvidia/bigvgan_v2_24khz_100band_256x", "0123")
    places = [tmp_path / "bigvgan_v2_24khz_100band_256x", tmp_path / "BigVGAN", hub]
    for folder in places:
        place(folder, files)
    for folder in places:
        assert require("bigvgan", tmp_path) == folder
        place(folder, {"bigvgan_generator.pt": vocos_release()["pytorch_model.bin"]})
    with pytest.raises(EngineMissing, match=r"BigVGAN .* bigvgan_generator\.pt is a Vocos vocoder") as caught:
        require("bigvgan", tmp_path)
    assert caught.value.hint.startswith(
        "Download config.json and bigvgan_generator.pt of nvidia/bigvgan_v2_24khz_100band_256x"
    )
    assert "bigvgan" not in BASE_MODELS


def test_the_page_has_the_names_that_count() -> None:
    """docs/MODELS.md: every name of a folder by which a model is known."""
    page = (Path(__file__).parents[4] / "docs/MODELS.md").read_text("utf-8")
    for model in BASE_MODELS.values():
        (row,) = re.findall(rf"^   \| `{model.name}` \| (.*) \|$", page, re.M)
        names = {base_models._normalised(name) for name in re.findall("`(.*?)`", row.partition(";")[0])}
        assert names | {model.folder} == {base_models._normalised(name) for name in (model.folder, *model.other_names)}


def test_table_is_complete() -> None:
    """What is needed is downloaded, and what is downloaded can be checked; pulled models are found."""
    for name, model in BASE_MODELS.items():
        names = {file.name for file in model.files}
        assert model.name == name
        assert set(model.needed) <= names
        assert set(model.needs) <= set(BASE_MODELS)
        assert any(fnmatch(name, pattern) for name in names for pattern in model.weights)
        assert all(file.size > 0 and len(bytes.fromhex(file.sha256)) == 32 for file in model.files)
        assert len(bytes.fromhex(model.revision)) == 20
        assert model.licence.summary
