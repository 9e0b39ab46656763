"""Headers of model files: what is in them is found, and nothing in them can run, crash or flood the reader."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.modelfiles import inert_pickle, torch_file, zip_directory
from engines.modelfiles.tensors import HoldsCode, UnreadableModelFile, read
from tests.model_files import Runs, number, safetensors, storage, tensor, text, torch_zip

END = b"."
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
          "float8_e4m3fn")  # fmt: skip


def everything() -> dict[str, Any]:
    """A tensor of each type, and of the shapes that are special."""
    import torch

    tensors = {dtype: torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)) for dtype in DTYPES}
    return tensors | {"scalar": torch.tensor(7), "empty": torch.empty(0, 4), "one": torch.ones(1, 1, 1)}


def content(path: Path, name: str) -> Any:
    """The tensor that lies where the header says."""
    import torch

    entry = read(path).entries[name]
    data = path.read_bytes()[entry.offset : entry.offset + entry.size]
    dtype = getattr(torch, entry.dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(entry.shape) if data else torch.empty(entry.shape)


def same(one: Any, other: Any) -> bool:
    import torch

    return one.shape == other.shape and torch.equal(one.double() if one.is_floating_point() else one,
                                                    other.double() if other.is_floating_point() else other)  # fmt: skip


def refused(path: Path) -> UnreadableModelFile:
    """Why a file is not read."""
    with pytest.raises(UnreadableModelFile) as caught:
        read(path)
    assert caught.value.reason
    assert caught.value.cure
    return caught.value


# --- what torch and safetensors write -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_a_torch_file_lie_where_it_says(tmp_path: Path, protocol: int) -> None:
    """Of every type and shape, under every version of the pickle format."""
    import torch

    tensors = everything()
    path = tmp_path / "model.pth"
    torch.save(OrderedDict(tensors), path, pickle_protocol=protocol)
    file = read(path)
    assert file.container == "torch"
    assert list(file.entries) == list(tensors)
    for name, value in tensors.items():
        assert same(content(path, name), value), name


def test_tensors_of_a_safetensors_file_lie_where_it_says(tmp_path: Path) -> None:
    """And its metadata are values."""
    from safetensors.torch import save_file

    tensors = everything()
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"step": "12", "val_loss": "0.5"})
    file = read(path)
    assert (file.container, file.values) == ("safetensors", {"step": "12", "val_loss": "0.5"})
    assert set(file.entries) == set(tensors)
    for name, value in tensors.items():
        assert same(content(path, name), value), name


def test_parameters_views_and_shared_storages_are_followed(tmp_path: Path) -> None:
    """A slice starts inside its storage; what is transposed is marked, since its bytes are in another order."""
    import torch

    whole = torch.arange(12.0).reshape(3, 4)
    parts = {"whole": whole, "slice": whole[1:], "transposed": whole.T, "parameter": torch.nn.Parameter(whole),
             "wide": torch.zeros(1).expand(5, 2)}  # fmt: skip
    path = tmp_path / "model.pth"
    torch.save(parts, path)
    entries = read(path).entries
    for name in ("whole", "slice", "parameter"):
        assert same(content(path, name), parts[name].detach())
    assert entries["slice"].offset == entries["whole"].offset + 4 * 4
    assert {name: entry.stride for name, entry in entries.items() if entry.stride} == {
        "transposed": (1, 4), "wide": (0, 0)
    }  # fmt: skip


def test_what_a_trainer_saves_is_sorted(tmp_path: Path) -> None:
    """Tensors by dotted names, and beside them values; numpy's numbers are numbers."""
    import torch

    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(), "optimizer": [optimizer.state_dict()], "scaler": None, "step": 77, "epoch": 3,
        "model_loss": {"train_loss": np.float64(1.5), "eval_loss": np.float32(0.25)}, "date": "today",
        "config": {"languages": ["pt", "en"], "nested": {"deep": (1, 2.5, True, None)}, "set": {"a"}, "at": Path("/a")},
    }  # fmt: skip
    path = tmp_path / "best_model.pth"
    torch.save(state, path)
    file = read(path)
    assert {"model.weight", "model.bias", "optimizer.0.state.0.exp_avg"} <= set(file.entries)
    assert file.values["step"] == 77
    assert file.values["model_loss"] == {"train_loss": 1.5, "eval_loss": 0.25}
    assert file.values["scaler"] is None
    config = file.values["config"]
    assert isinstance(config, dict)
    assert config["languages"] == ["pt", "en"]
    assert config["nested"] == {"deep": [1, 2.5, True, None]}
    assert config["set"] == ["a"]


def test_the_configuration_objects_of_old_files_are_read_as_data(tmp_path: Path) -> None:
    """The released XTTS-v2 file holds objects of the library's classes, under the names that they had then.

    Read where these classes can't even be imported.
    """
    import torch

    path = tmp_path / "model.pth"
    arguments = b"cTTS.tts.models.xtts\nXttsArgs\n)\x81}X\n\0\0\0gpt_layersK\x1esb"
    listing = (
        b"\x80\x02}(" + text("config") + b"cTTS.tts.configs.xtts_config\nXttsConfig\n)\x81}" + text("model_args")
        + arguments + b"sb" + text("model") + b"}" + text("weight") + tensor("Float", "0", 0, (2,), (1,)) + b"su."
    )  # fmt: skip
    torch_zip(path, listing, {"data/0": bytes(8), "byteorder": b"little", "version": b"3\n"})
    code = (
        "import sys, pathlib; from engines.modelfiles.tensors import read\n"
        "sys.modules['TTS'] = sys.modules['torch'] = None\n"
        f"file = read(pathlib.Path({str(path)!r}))\n"
        "print(file.values, dict(file.entries))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("{'config': {'model_args': {'gpt_layers': 30}}} {'model.weight': Entry(")
    with pytest.raises(pickle.UnpicklingError):  # torch itself refuses to
        torch.load(path, weights_only=True)


def test_five_gigabytes_are_told_from_a_few_kilobytes(tmp_path: Path) -> None:
    """Only the header of a file is read, whatever its size."""
    import torch

    path = tmp_path / "best_model.pth"
    model = {f"xtts.gpt.gpt.h.{n}.attn.c_attn.weight": torch.empty(1024, 3072) for n in range(400)}
    with torch.serialization.skip_data():
        torch.save({"model": model, "step": 3}, path)
    assert path.stat().st_size > 5e9
    before = bytes_read()
    assert len(read(path).entries) == 400
    assert bytes_read() - before < 1 << 20


def bytes_read() -> int:
    """By this process so far, from the cache too."""
    return int(Path("/proc/self/io").read_text().split()[1])


# --- code ------------------------------------------------------------------------------------------------------------


def holders(witness: Path) -> Iterator[tuple[str, bytes, str]]:
    """Lists of contents that would run something, and its name."""
    command = f"touch '{witness}'"
    call = pickle.dumps(command, 2)[2:-1]
    for protocol in range(6):
        yield f"protocol {protocol}", pickle.dumps({"model": Runs(witness)}, protocol), "os.system"
    yield "inst", b"(" + call + b"iposix\nsystem\n" + END, "os.system"
    yield "obj", b"(cposix\nsystem\n" + call + b"o" + END, "os.system"
    yield "old name", b"c__builtin__\neval\n(" + call + b"tR" + END, "builtins.eval"
    yield "mentioned alone", b"csubprocess\nPopen\n" + END, "subprocess.Popen"
    yield "by getattr", b"cbuiltins\ngetattr\n" + END, "builtins.getattr"
    yield "nested pickle", b"ctorch.storage\n_load_from_bytes\n" + END, "torch.storage._load_from_bytes"
    yield "function of a library", b"ctrainer.io\nload_fsspec\n" + END, "trainer.io.load_fsspec"
    yield "through a library", b"\x80\x04\x8c\x0bTTS.utils.iX\x09\0\0\0os.system\x93.", "TTS.utils.i.os.system"
    yield "whole module", b"ctorch.nn.modules.linear\nLinear\n)\x81}b" + END, "torch.nn.modules.linear.Linear"
    yield "letters that look alike", text("оs") + text("system") + b"\x93.", r"'\u043es.system'"


@pytest.mark.parametrize("number", range(16))
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_that_holds_code_is_named_and_nothing_runs(tmp_path: Path, number: int, wrapped: bool) -> None:
    """In torch's archive, and as a bare pickle; whatever instruction would run it."""
    path, witness = tmp_path / "model.pth", tmp_path / "ran"
    _how, listing, name = list(holders(witness))[number]
    if wrapped:
        torch_zip(path, listing)
    else:
        path.write_bytes(b"\x80\x02" + listing if listing[:1] != b"\x80" else listing)
    error = refused(path)
    assert isinstance(error, HoldsCode)
    assert error.reason == f"it contains code: unpickling it would run {name}"
    assert not witness.exists()


def test_the_bait_is_real(tmp_path: Path) -> None:
    """Loaded the usual way, what the tests above use does run."""
    witness = tmp_path / "ran"
    pickle.loads(pickle.dumps(Runs(witness)))
    assert witness.exists()


def test_code_in_an_old_file_of_torch_is_named(tmp_path: Path) -> None:
    """Before version 1.6 torch wrote several pickles in a row; a clean one is refused with the cure."""
    import torch

    clean, bad, witness = tmp_path / "clean.pth", tmp_path / "bad.pth", tmp_path / "ran"
    torch.save({"weight": torch.ones(3)}, clean, _use_new_zipfile_serialization=False)
    torch.save({"weight": Runs(witness)}, bad, _use_new_zipfile_serialization=False)
    assert "os.system" in refused(bad).reason
    assert not witness.exists()
    error = refused(clean)
    assert "before version 1.6" in error.reason
    assert "save it again" in error.cure


# --- bombs -----------------------------------------------------------------------------------------------------------


def nested(count: int, opening: bytes, closing: bytes) -> bytes:
    return opening * count + closing * count


@pytest.mark.parametrize(
    "listing",
    [
        pytest.param(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xffR.", id="number of the memo"),
        pytest.param(b"\x80\x02N" + b"\x85" * 100_000 + b".", id="tuples"),
        pytest.param(b"]" + b"]" * 100_000 + b"a" * 100_000 + b".", id="lists"),
        pytest.param(b"}" + b"X\x01\0\0\0a}" * 100_000 + b"s" * 100_000 + b".", id="dictionaries"),
        pytest.param(b"}N" + b"\x85" * 100_000 + b"Ns.", id="a tuple as key"),
        pytest.param(b"]q\0" + b"h\0h\0\x86q\0" * 1000 + b".", id="the same twice, a thousand times"),
        pytest.param(b"]q\0h\0a.", id="a list in itself"),
        pytest.param(b"}q\0" + text("a") + b"h\0s.", id="a dictionary in itself"),
        pytest.param(b"\x8b\xff\xff\xff\x7f" + b"1" * 1000 + b".", id="a number of two gigabytes"),
        pytest.param(b"\x96" + b"\xff" * 7 + b"\x7f.", id="more bytes than there are"),
        pytest.param(b"X" + b"\xff" * 4 + b".", id="more text than there is"),
        pytest.param(b"\x82\x01.", id="an extension"),
        pytest.param(b"Pname\n.", id="a persistent name"),
        pytest.param(b".", id="nothing"),
        pytest.param(b"", id="no byte"),
        pytest.param(b"R.", id="a call of nothing"),
        pytest.param(b"ccollections\nOrderedDict\n" + b"(" + b"N" * 100 + b"tR.", id="a hundred arguments"),
        pytest.param(b"c" + b"a" * 5000 + b"\nb\n.", id="a name without end"),
        pytest.param(b"}" + text("a" * 600) + tensor("Float", "0", 0, (1,), (1,)) + b"s.", id="a key without end"),
    ],
)
def test_a_bomb_is_refused_in_little_memory(tmp_path: Path, listing: bytes) -> None:
    """Nested beyond measure, shared without end, huge by its own word."""
    path = torch_zip(tmp_path / "model.pth", listing, {"data/0": bytes(4)})
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_a_list_of_contents_has_so_many_parts_at_most() -> None:
    """Time and memory follow from their number."""
    with pytest.raises(UnreadableModelFile, match="more than 300,000 instructions"):
        inert_pickle.load(io.BytesIO(b"]" * 310_000 + END))


def test_what_is_put_aside_is_shared_and_never_copied() -> None:
    """A large list that is used in forty thousand calls takes no more memory than once."""
    large = b"](" + b"N" * 50_000 + b"eq\0"
    calls = b"cbuiltins\nset\nq\x010" + b"h\x01(h\0tR0" * 40_000
    listing = large + calls + END
    tracemalloc.start()
    try:
        assert len(inert_pickle.load(io.BytesIO(listing))) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_named(tmp_path: Path) -> None:
    """torch never packs anything; what is packed is refused, and what explodes is called a bomb."""
    bomb = torch_zip(tmp_path / "a.pth", bytes(50 << 20), compression=zipfile.ZIP_DEFLATED)
    assert "zip bomb" in refused(bomb).reason
    packed = torch_zip(tmp_path / "b.pth", os.urandom(1000), compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(packed).reason


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    """One reader would take the first, another the last."""
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"}.")
        archive.writestr("model/data.pkl", b"].")
    assert "two of its records" in refused(path).reason


def test_records_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """How a zip of 10 MB can hold 281 TB (D. Fifield, A better zip bomb)."""
    path = torch_zip(tmp_path / "model.pth", b"}.", {"data/0": bytes(100)})
    data = bytearray(path.read_bytes())
    last = data.rfind(b"PK\1\2")
    struct.pack_into("<L", data, last + 42, 0)  # where its content lies: at the first record's place
    path.write_bytes(data)
    assert "overlaps another" in refused(path).reason


def test_a_directory_that_claims_gigabytes_is_not_believed(tmp_path: Path) -> None:
    """Nor is one that lies outside of the file."""
    path = torch_zip(tmp_path / "model.pth", b"}.")
    sound = path.read_bytes()
    end = sound.rfind(b"PK\5\6")
    for field, value in ((12, 0xFFFFFFF0), (16, 0xFFFFFFF0), (12, 3)):
        data = bytearray(sound)
        struct.pack_into("<L", data, end + field, value)
        path.write_bytes(data)
        refused(path)


# --- tensors that are not where they should be ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "key"),
    [
        ((2,), (1,), 0, "0"),
        ((1,), (1,), 1, "0"),
        ((2, 2), (0, 1), 0, "0"),
        ((1 << 40, 1 << 40), (0, 0), 1, "0"),
        ((1,), (1,), 0, "nowhere"),
        ((-1,), (1,), 0, "0"),
        ((1,), (-1,), 0, "0"),
        ((1,), (1,), -1, "0"),
        ((1,), (1, 1), 0, "0"),
        ((1,) * 33, (1,) * 33, 0, "0"),
        ((1 << 70,), (0,), 0, "0"),
    ],
)
def test_a_tensor_outside_of_its_data_is_refused(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, key: str
) -> None:
    """By its shape, its steps, its start, or a name that is not there. The data have room for one number."""
    listing = b"}" + text("weight") + tensor("Float", key, offset, shape, stride) + b"s."
    assert "'weight'" in refused(torch_zip(tmp_path / "model.pth", listing, {"data/0": bytes(4)})).reason


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    """`a.b` at the top, and `b` within `a`."""
    one = tensor("Float", "0", 0, (1,), (1,))
    listing = b"}(" + text("a.b") + one + text("a") + b"}" + text("b") + one + b"su."
    assert "two of its tensors" in refused(torch_zip(tmp_path / "m.pth", listing, {"data/0": bytes(4)})).reason


@pytest.mark.parametrize(
    ("listing", "records", "words"),
    [
        (b"}.", {"byteorder": b"big"}, "big-endian"),
        (b"}.", {"constants.pkl": b"}."}, "TorchScript"),
        (b"ctorch._utils\n_rebuild_qtensor\n.", {}, "_rebuild_qtensor"),
        (b"(" + text("storage") + b"ctorch\nQInt8Storage\n" + b"tQ.", {}, "QInt8Storage"),
        (storage("Float", "0") + b"0" + number(3) + b"b.", {}, "damaged"),
    ],
)
def test_other_archives_are_named(tmp_path: Path, listing: bytes, records: dict[str, bytes], words: str) -> None:
    """Another byte order, programs, quantised tensors."""
    assert words in refused(torch_zip(tmp_path / "model.pth", listing, records)).reason


def test_other_files_are_named(tmp_path: Path) -> None:
    """What people take for a model: a pointer, a web page, an archive, nothing."""
    path = tmp_path / "model.pth"
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"), (b"<!DOCTYPE html>", "web page"),
        (b"GGUF\3\0\0\0", "GGUF"), (b"", "empty"), (b"hello", "neither"), (bytes(1000), "neither"),
    ):  # fmt: skip
        path.write_bytes(content)
        assert words in refused(path).reason
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "zip archive" in refused(path).reason
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "storages")
    refused(path)
    folder = tmp_path / "folder.pth"
    folder.mkdir()
    assert "not a file" in refused(folder).reason
    pipe = tmp_path / "pipe.pth"
    os.mkfifo(pipe)
    assert "not a file" in refused(pipe).reason


# --- safetensors -----------------------------------------------------------------------------------------------------

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": ONE}, b"123", "cut off: 1 bytes"),
        ({"a": ONE}, b"12345", "unused bytes"),
        ({"a": ONE, "b": ONE}, b"1234", "overlaps"),
        ({"a": ONE | {"data_offsets": [4, 8]}}, b"12345678", "gap"),
        ({"a": ONE | {"data_offsets": [4, 0]}}, b"1234", "is invalid"),
        ({"a": ONE | {"data_offsets": [0, 8]}}, b"12345678", "is invalid"),
        ({"a": ONE | {"data_offsets": [0]}}, b"1234", "is invalid"),
        ({"a": ONE | {"shape": [2]}}, b"1234", "is invalid"),
        ({"a": ONE | {"shape": [-1]}}, b"1234", "is invalid"),
        ({"a": ONE | {"shape": [True]}}, b"1234", "is invalid"),
        ({"a": ONE | {"shape": [1] * 40}}, b"1234", "is invalid"),
        ({"a": ONE | {"dtype": "F4"}}, b"1234", "not supported"),
        ({"a": ONE | {"dtype": ["F32"]}}, b"1234", "not supported"),
        ({"a": 3}, b"", "is invalid"),
        (b'{"a": 1, "a": 1}', b"", "the same name"),
        (b'{"a": ', b"", "not the JSON"),
        (b"{" + b'"a":[' * 100_000, b"", "not the JSON"),
        (b'{"a": ' + b"1" * 10_000 + b"}", b"", "not the JSON"),
        (b'{"\xff": 1}', b"", "not the JSON"),
    ],
)
def test_a_wrong_safetensors_header_is_refused(tmp_path: Path, header: Any, data: bytes, words: str) -> None:
    """Its offsets must fill the file without gap or overlap, as the format asks for."""
    assert words in refused(safetensors(tmp_path / "model.safetensors", header, data)).reason


def test_a_safetensors_header_is_bounded(tmp_path: Path) -> None:
    """One that claims more than there is, or more than any model has."""
    path = tmp_path / "model.safetensors"
    assert "cut off" in refused(safetensors(path, {"a": ONE}, length=1000)).reason
    assert "claims" in refused(safetensors(path, {"a": ONE}, length=1 << 39)).reason


# --- whatever comes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Path]:
    """Bytes of a sound file of each kind, and a place to write changed ones to."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("sound")
    torch.save({"model": everything(), "step": 3, "config": {"a": [1, 2]}}, folder / "a.pth")
    torch.save(everything(), folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(everything(), folder / "a.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}, folder / "changed"


@given(st.data())
def test_a_file_that_was_cut_anywhere_is_refused(sound: tuple[dict[str, bytes], Path], data: st.DataObject) -> None:
    """With words, never with anything else."""
    files, path = sound
    whole = files[data.draw(st.sampled_from(sorted(files)))]
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # of pickletools, in a damaged string
@given(st.data())
def test_a_file_with_any_bytes_changed_is_read_or_refused(
    sound: tuple[dict[str, bytes], Path], data: st.DataObject
) -> None:
    """And what is read lies inside the file."""
    files, path = sound
    changed = bytearray(files[data.draw(st.sampled_from(sorted(files)))])
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    try:
        file = read(path)
    except UnreadableModelFile:
        return
    for one in file.entries.values():
        assert one.offset >= 0
        assert one.stride is not None or one.offset + one.size <= len(changed)


@given(
    st.lists(
        st.sampled_from([bytes([code]) for code in range(256)] + [b"h\0", b"q\0", b"K\1", b"ctorch\nSize\n", text("a")])
    )
)
def test_any_instructions_are_read_or_refused(instructions: list[bytes]) -> None:
    """The machine has no other way to end."""
    try:
        inert_pickle.load(io.BytesIO(b"".join(instructions)))
    except UnreadableModelFile:
        return


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=20,
), st.integers(0, 5))  # fmt: skip
def test_plain_data_come_out_as_they_went_in(value: Any, protocol: int) -> None:
    """Under every version of the pickle format."""
    assert inert_pickle.load(io.BytesIO(pickle.dumps(value, protocol))) == value


def test_bounds_leave_room_for_real_files(tmp_path: Path) -> None:
    """XTTS-v2 as its trainer saves it, with an optimizer that knows every tensor: the largest that is written."""
    import torch

    def some(count: int) -> dict[str, Any]:
        return {f"xtts.gpt.gpt.h.{n}.attn.c_attn.weight": torch.zeros(1, 1) for n in range(count)}

    moments = {
        n: {"step": torch.zeros(()), "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)} for n in range(963)
    }
    state = {"model": some(963), "optimizer": [{"state": moments, "param_groups": [{"params": list(range(963))}]}]}
    path = tmp_path / "best_model.pth"
    torch.save(state, path)
    assert len(read(path).entries) == 4 * 963
    with zipfile.ZipFile(path) as archive:
        listing = archive.read("best_model/data.pkl")
        assert 5 * len(listing) < torch_file.MAX_PICKLE
        assert 2 * sum(1 for _ in pickletools.genops(listing)) < inert_pickle.MAX_INSTRUCTIONS
        assert 3 * len(archive.namelist()) < zip_directory.MAX_RECORDS
