"""A hub for tests: serves small releases over HTTP as the Hugging Face hub does, and misbehaves on request."""

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

from engines.checkpoints import f5_layout, xtts_layout
from engines.checkpoints.base_models import BASE_MODELS, BaseModel, PublishedFile
from engines.modelfiles.tensors import Entry

XTTS, F5, VOCOS = (BASE_MODELS[name] for name in ("xtts", "f5", "vocos"))


def release(weights: bytes) -> dict[str, bytes]:
    """The files of a release with these weights; all others are as small as possible."""
    small = {name: name.encode() * 10 for name in ("LICENSE.txt", "config.json", "vocab.json", "speakers_xtts.pth")}
    return {**small, "model.pth": weights}


def weights() -> bytes:
    """Weights with the header of an XTTS-v2 in the smallest sizes: 22 MB."""
    embeddings = ("text_embedding", "mel_embedding", "text_pos_embedding.emb", "mel_pos_embedding.emb")
    smallest = Entry("uint8", (3, 6), 0, 0)
    return zeros(xtts_layout.expected({f"gpt.{name}.weight": smallest for name in embeddings}))


def f5_release() -> dict[str, bytes]:
    """Files with the header of an F5-TTS in the smallest sizes, with a vocabulary of three symbols."""
    smallest = f5_layout.Sizes("dit", 16, 1, 1, 2, 8, 1, vocabulary=3)
    vocabulary, weights = (file.name for file in F5.files)
    return {vocabulary: b" \r\na\r\nb\r\n", weights: zeros(f5_layout.expected(smallest))}


def vocos_release() -> dict[str, bytes]:
    """Files with the header of a Vocos."""
    config, weights = (file.name for file in VOCOS.files)
    return {config: b"backbone: {}\n", weights: zeros({"backbone.embed.weight": (4, 100, 7)})}


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Zeros of these shapes, as safetensors."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + bytes(end)


def noise(size: int) -> bytes:
    """Bytes that have no known format."""
    return random.Random(7).randbytes(size)


def published(files: dict[str, bytes], model: BaseModel = XTTS) -> BaseModel:
    """The table's entry, as if these files had been published."""
    listed = (PublishedFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items())
    return replace(model, files=tuple(listed))


@dataclass
class Hub:
    """What is served, and which requests were made.

    Attributes:
        files: Name -> content, served as `/REPOSITORY/resolve/REVISION/NAME`; of XTTS-v2.
        others: The same for other models.
        cut: Name -> bytes after which the connection breaks, once.
        stall: Name -> bytes after which nothing more is sent until the hub is closed, once.
        ranges: Whether it supports range requests.
        status: What it answers instead of files.
        elsewhere: Address that it redirects to.
        asked: Name, start of the range, and token of each request.
        sent: How many bytes of content it has sent.
    """

    files: dict[str, bytes]
    others: tuple[tuple[BaseModel, dict[str, bytes]], ...] = ()
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

    def find(self, path: str) -> tuple[str, bytes | None]:
        """Name of a requested file, and its content if repository and revision are right."""
        for model, files in ((XTTS, self.files), *self.others):
            name = path.removeprefix(f"/{model.repository}/resolve/{model.revision}/")
            if name != path:
                return name, files.get(name)
        return path, None


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        served, start = self.server.served, 0
        name, whole = served.find(self.path)
        if served.ranges:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        served.asked.append((name, start, self.headers.get("Authorization")))
        if served.elsewhere is not None:
            self._head(302, Location=served.elsewhere + self.path)
        elif served.status != 200:
            self._head(served.status)
        elif whole is None:
            self._head(404)
        else:
            self._content(served, name, whole, start)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def _content(self, served: Hub, name: str, whole: bytes, start: int) -> None:
        rest = whole[start:]
        length = {"Content_Length": str(len(rest))}
        if start:
            self._head(206, **length, Content_Range=f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        else:
            self._head(200, **length)
        stall = served.stall.pop(name, None)
        part = rest[: served.cut.pop(name, stall)]
        served.sent += len(part)  # before the other side can have all of it
        self.wfile.write(part)
        if stall is not None:
            served.stalled.set()
            served.closing.wait(60)

    def log_message(self, *_arguments: object) -> None:
        """Logs nothing."""


class _Server(ThreadingHTTPServer):
    served: Hub


@contextmanager
def hub(files: dict[str, bytes], *others: tuple[BaseModel, dict[str, bytes]]) -> Iterator[Hub]:
    """A hub at its own address, closed at the end."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.served = served = Hub(files, others, address=f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            served.closing.set()
            server.shutdown()
            thread.join()


def place(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder and the folders in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
