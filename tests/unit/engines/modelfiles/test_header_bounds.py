"""Whatever a model file and what lies beside it hold: looking at it takes little time and little memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import headers
from tests.model_files import number, safetensors, tensor, text, torch_zip
from tests.spooling import ROOT

MAX_BYTES = 100 << 20
"""More than before the file was looked at; what asks for more gets a MemoryError."""
MAX_CPU_S = 5.0
"""Processor time. Each takes less than a second where nobody else works; other people's work makes it longer."""

LOOKS = f"""
import json, resource, sys, time
from pathlib import Path
from engines.checkpoints import inspection
from tests import process_memory

data = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (data * 1024 + {MAX_BYTES},) * 2)
before = process_memory.now()
process_memory.forget()
started_s = time.process_time()
found = inspection.inspect(Path(sys.argv[1]))
used_s = time.process_time() - started_s
print(json.dumps([found.why_not, found.cure, used_s, process_memory.most() - before]))
"""


def looked_at(path: Path) -> str:
    """Why a file does not load, found by a process of its own with little memory."""
    child = [sys.executable, "-c", LOOKS, str(path)]
    found = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-1000:]
    why_not, cure, used_s, grown_bytes = json.loads(found.stdout)
    sys.stdout.write(f"{used_s:.2f} s, {grown_bytes >> 20} MiB: {why_not}\n")
    assert used_s < MAX_CPU_S
    assert cure or not why_not
    return str(why_not)


def pickled(content: bytes) -> Callable[[Path], Path]:
    """A torch file with this list of contents."""
    return lambda folder: torch_zip(folder / "model.pth", b"\x80\x02" + content + b".", {"data/0": bytes(4)})


def bare(content: bytes) -> Callable[[Path], Path]:
    """A pickle without any archive around it."""

    def make(folder: Path) -> Path:
        (folder / "model.pth").write_bytes(content)
        return folder / "model.pth"

    return make


def header(content: bytes) -> Callable[[Path], Path]:
    return lambda folder: safetensors(folder / "model.safetensors", content)


def named(**said: str) -> Callable[[Path], Path]:
    """A whole F5-TTS that says things of itself."""
    return lambda folder: headers.save(folder / "model.safetensors", headers.F5, **said)


def tensors(count: int) -> bytes:
    """Instructions for a dictionary of so many tensors, each of its own, with names as long as may be."""
    one = tensor("Float", "0", 0, (1,), (1,))
    return b"}" + b"".join(text(f"{n}{'a' * 490}") + one + b"s" for n in range(count))


def empty_records(count: int, extra: bytes = b"") -> Callable[[Path], Path]:
    """An archive with so many records without content, each with extra fields in the directory."""

    def make(folder: Path) -> Path:
        path, local, directory = folder / "model.pth", b"", b""
        for n in range(count):
            name = b"model/data.pkl" if n == 0 else b"model/data/%d" % n
            common = struct.pack("<5H3I", 20, 0, 0, 0, 33, 0, 0, 0)
            place, entry = len(local), struct.pack("<2H", len(name), len(extra))
            directory += b"PK\1\2\x14\0" + common + entry + struct.pack("<3H2I", 0, 0, 0, 0, place) + name + extra
            local += b"PK\3\4" + common + struct.pack("<2H", len(name), 0) + name
        counts = min(count, 0xFFFF)
        end = struct.pack("<4H2IH", 0, 0, counts, counts, len(directory), len(local), 0)
        path.write_bytes(local + directory + b"PK\5\6" + end)
        return path

    return make


def hollow_order(folder: Path) -> Path:
    """The record that names the order of bytes claims four gigabytes less one, and the file has them."""
    path = torch_zip(folder / "model.pth", b"}.", {"byteorder": b"little"})
    data = path.read_bytes()
    start = data.rfind(b"PK\1\2")
    directory = bytearray(data[start : data.rfind(b"PK\5\6")])
    size = 0xFFFFF000
    struct.pack_into("<2I", directory, 20, size, size)
    content = data.rfind(b"little", 0, start)
    first = data[data.find(b"PK\1\2") : start]
    with path.open("wb") as file:
        file.write(data[:content])
        place = file.seek(content + size)
        file.write(first + directory)
        both = len(first) + len(directory)
        wide = struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 2, 2, both, place)
        file.write(b"PK\6\6" + wide + b"PK\6\7" + struct.pack("<LQL", 0, place + both, 1))
        file.write(b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 2, 2, both, 0xFFFFFFFF, 0))
    return path


def with_vocabulary(content: bytes, name: str = "vocab.json") -> Callable[[Path], Path]:
    """A whole model with this next to it."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        shapes = headers.xtts(words=16) if name == "vocab.json" else headers.F5
        return headers.save(folder / "model.safetensors", shapes)

    return make


def sparse_vocabulary(folder: Path) -> Path:
    path = with_vocabulary(b"{")(folder)
    os.truncate(folder / "vocab.json", 64 << 30)
    return path


def mega(item: bytes, size_bytes: int) -> bytes:
    return item * (size_bytes // len(item))


MANY = 4 << 20
TINY = b'"%06d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
HOSTILE: dict[str, Callable[[], tuple[Callable[[Path], Path], str]]] = {
    "a list that holds itself 980,000 times": lambda: (
        pickled(b"]q\0(" + b"h\0" * 980_000 + b"e"), "300,000 instructions"
    ),
    "a list that holds itself as often as may be": lambda: (
        pickled(b"]q\0(" + b"h\0" * 299_000 + b"e"), "nested too deep"
    ),
    "one list 299,000 times": lambda: (pickled(b"](]q\0a(" + b"h\0" * 299_000 + b"e"), "list of contents"),
    "tuples that double": lambda: (pickled(b"]q\0" + b"h\0h\0\x86q\0" * 70_000), "nested too deep"),
    "lists that hold ten of the last": lambda: (
        pickled(b"]q\0" + b"".join(b"](" + b"h\0" * 10 + b"eq\0" for _ in range(20_000))), "nested too deep"
    ),
    "dictionaries copied over and over": lambda: (
        pickled(b"}(" + b"".join(number(n) + b"N" for n in range(50_000)) + b"uq\0ccollections\nOrderedDict\nq\1"
                + b"h\1h\0\x85R" * 40_000), "damaged"
    ),
    "300,000 dictionaries": lambda: (pickled(b"](" + b"}K\1Ns" * 74_000 + b"e"), "nested too deep"),
    "300,000 tuples in one another as a name": lambda: (
        pickled(b"N" + b"\x85" * 290_000 + text("a") + b"\x93"), "damaged"
    ),
    "300,000 tuples in one another as a kind of number": lambda: (
        pickled(b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nN" + b"\x85" * 290_000 + b"\x85RC\x01a\x86R"),
        "damaged",
    ),
    "a number of four megabytes": lambda: (
        pickled(b"}" + text("step") + b"\x8b" + (MANY - 1000).to_bytes(4, "little") + b"\x01" * (MANY - 1000) + b"s"),
        "without tensors",
    ),
    "a number of a million digits": lambda: (pickled(b"I" + b"9" * 1_000_000 + b"\n"), "damaged"),
    "text of four megabytes where a number belongs": lambda: (
        pickled(b"}" + text("step") + text("9" * (MANY - 1000)) + b"s"
    ),
                                                      "without tensors"),
    "wide text": lambda: (pickled(b"](" + text("\U0001f600" + "a" * 4_000_000) + b"e"), "without tensors"),
    "a list of contents of a gigabyte": lambda: (pickled(bytes(8 << 20)), "8,388,611 bytes"),
    "30,000 times the same tensor": lambda: (
        pickled(tensor("Float", "0", 0, (1,), (1,)) + b"q\0](" + b"h\0" * 29_000 + b"e"), "not a supported speech model"
    ),
    "tensors with long names": lambda: (pickled(tensors(7_000)), "nested too deep"),
    "configurations in text": lambda: (
        pickled(b"}(" + b"".join(text(str(n)) + text("{" + "[" * 20) for n in range(14_000)) + b"u"), "without tensors"
    ),
    "a bare pickle that goes on": lambda: (bare(b"](" + b"N" * 1_000_000 + b"e."), "bare pickle"),
    "bare pickles one after the other": lambda: (bare((b"](" + b"N" * 290_000 + b"e.") * 4), "bare pickle"),
    "14,000 records": lambda: (empty_records(14_000), "list of contents is damaged"),
    "60,000 records": lambda: (empty_records(60_000), "15,000 records"),
    "extra fields without end": lambda: (empty_records(60, b"\0" * 65_000), "directory is damaged"),
    "small extra fields": lambda: (empty_records(14_000, b"\0" * 128), "list of contents is damaged"),
    "an order of bytes of 4 GB": lambda: (hollow_order, "big-endian"),
    "a header of 100 MB": lambda: (header(b'{"a":"' + b"b" * (100 << 20) + b'"}'), "2,097,152 are read"),
    "a header of lists": lambda: (header(b'{"a":[' + mega(b"[],", 2_000_000) + b"[]]}"), "not the JSON"),
    "a header of as many lists as may be": lambda: (header(b'{"a":[' + b"[],[[]]," * 29_000 + b"[]]}"), "is invalid"),
    "a header nested without end": lambda: (header(b'{"a":' * 100_000), "not the JSON"),
    "a header of brackets": lambda: (header(b'{"a":' + b"[" * 140_000), "not the JSON"),
    "a header of tiny tensors": lambda: (
        header(b"{" + b",".join(TINY % n for n in range(20_000)) + b"}"), "not a supported speech model"
    ),
    "a header with a number of a million digits": lambda: (header(b'{"a":' + b"9" * 1_000_000 + b"}"), "not the JSON"),
    "metadata that are configurations": lambda: (
        named(**{str(n): "{" + "a: {b: {c: 1}}, " * 3 + "}" for n in range(2_000)}), ""
    ),
    "one configuration of 60 kB": lambda: (named(a="{" + "a, " * 20_000 + "}"), ""),
    "a vocab.json of 16 MB": lambda: (with_vocabulary(mega(b"[],", 16 << 20)), "4,194,304 bytes"),
    "a vocab.json of 4 MB of lists": lambda: (
        with_vocabulary(b"[" + mega(b"[],", 4_000_000) + b"[]]"), "300,000 values"
    ),
    "a vocab.json of as many values as may be": lambda: (
        with_vocabulary(json.dumps({"model": {"vocab": {f"{n:x}": n for n in range(200_000)}}}).encode()),
        "200000 tokens",
    ),
    "a vocab.json of 64 GB": lambda: (sparse_vocabulary, "4,194,304 bytes"),
    "a vocab.txt of line ends": lambda: (with_vocabulary(b"\n" * 1_000_000, "vocab.txt"), "100,000 lines"),
    "a vocab.txt of lines": lambda: (with_vocabulary(b"a\xc3\xa9bcdefg\n" * 99_000, "vocab.txt"), "99000 symbols"),
    "a model.yaml of lists": lambda: (with_vocabulary(b"a:\n" + b"- b\n" * 16_000, "model.yaml"), ""),
    "a model.yaml in brackets": lambda: (with_vocabulary(b"[" * 64_000, "model.yaml"), ""),
}  # fmt: skip
"""Made when they are needed: together they take 150 MB and most of a second, in every test process."""


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_file_takes_more_than_its_share(kind: str, tmp_path: Path) -> None:
    """Each is refused in a sentence, or known for what it is, by a process that gets 100 MiB."""
    make, words = HOSTILE[kind]()
    assert words in looked_at(make(tmp_path))


def test_the_bait_would_be_swallowed_whole(tmp_path: Path) -> None:
    """What the limits are for: Python's own reader takes such a list, and torch's archive around it is sound."""
    content = b"\x80\x02]q\0(" + b"h\0" * 980_000 + b"e."
    whole = pickle.loads(content)
    assert len(whole) == 980_000
    assert whole[0] is whole
    assert torch_zip(tmp_path / "model.pth", content).stat().st_size > 1_900_000
