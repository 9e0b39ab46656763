"""A hub for tests: serves one small release over HTTP as the Hugging Face hub does, and misbehaves when told to."""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from engines import xtts_layout
from engines.base_models import BASE_MODELS, BaseModel, Published
from engines.tensors import Entry

XTTS = BASE_MODELS["xtts"]


def release(weights: bytes) -> dict[str, bytes]:
    """Files of a release that has these weights; the others as small as can be."""
    small = {name: name.encode() * 10 for name in ("LICENSE.txt", "config.json", "vocab.json", "speakers_xtts.pth")}
    return {**small, "model.pth": weights}


def weights() -> bytes:
    """What is an XTTS-v2 by its header, of the smallest sizes: 22 MB."""
    embeddings = ("text_embedding", "mel_embedding", "text_pos_embedding.emb", "mel_pos_embedding.emb")
    smallest = Entry("uint8", (3, 6), 0, 0)
    return zeros(xtts_layout.expected({f"gpt.{name}.weight": smallest for name in embeddings}))


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Tensors of these shapes, as safetensors has them."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + bytes(end)


def noise(size: int) -> bytes:
    """Bytes that look like nothing."""
    return random.Random(7).randbytes(size)


def published(files: dict[str, bytes], model: BaseModel = XTTS) -> BaseModel:
    """The table's entry, as if these files had been published."""
    listed = (Published(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items())
    return replace(model, files=tuple(listed))


@dataclass
class Hub:
    """What is served, and what has been asked for.

    Attributes:
        files: Name -> content, served as `/REPOSITORY/resolve/REVISION/NAME`.
        cut: Name -> bytes after which the connection breaks; each once.
        stall: Name -> bytes after which nothing more comes, until the hub is closed; each once.
        ranges: Whether it knows them.
        status: What it answers instead of files.
        elsewhere: Address that it sends on to.
        asked: Name, start of the range, and token of each request.
        sent: How many bytes of content it has sent.
    """

    files: dict[str, bytes]
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    status: int = 200
    elsewhere: str | None = None
    address: str = ""
    asked: list[tuple[str, int, str | None]] = field(default_factory=list)
    sent: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def names(self) -> list[str]:
        return [name for name, _start, _token in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        repository, _, name = self.path.partition(f"/resolve/{XTTS.revision}/")
        served, start = self.server.served, 0
        if served.ranges:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        served.asked.append((name, start, self.headers.get("Authorization")))
        if served.elsewhere is not None:
            self._head(302, Location=served.elsewhere + self.path)
        elif served.status != 200:
            self._head(served.status)
        elif repository != f"/{XTTS.repository}" or name not in served.files:
            self._head(404)
        else:
            self._content(served, name, start)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def _content(self, served: Hub, name: str, start: int) -> None:
        whole = served.files[name]
        rest = whole[start:]
        length = {"Content_Length": str(len(rest))}
        if start:
            self._head(206, **length, Content_Range=f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        else:
            self._head(200, **length)
        stall = served.stall.pop(name, None)
        part = rest[: served.cut.pop(name, stall)]
        self.wfile.write(part)
        served.sent += len(part)
        if stall is not None:
            served.stalled.set()
            served.closing.wait(60)

    def log_message(self, *_arguments: object) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    served: Hub


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub at an address of its own, gone at the end."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.served = served = Hub(files, address=f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            served.closing.set()
            server.shutdown()
            thread.join()


def place(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
