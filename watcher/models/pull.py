"""Downloading a base model: what `voicespool models pull` does.

Files are downloaded over HTTP as the Hugging Face hub serves them, from a fixed commit, and accepted only with the size
and SHA-256 in `engines.checkpoints.base_models`. Partial files stay on disk when a download is interrupted; the next
one requests only the rest. (The hub's own library discards a partial file.)

    models/.pull-xtts/lock           held while a download runs
    models/.pull-xtts/COMMIT/...     the files so far
    models/xtts-v2/                  all files, checked, by one rename

A model with a dependency is two downloads, one after the other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from engines.checkpoints import base_models
from engines.checkpoints.base_models import BaseModel, PublishedFile
from engines.errors import EngineMissing
from files import durable
from files.printable import printable
from jobs.errors import Hold

RECORD = "pulled.json"
WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Pauses after a connection breaks; the download gives up after this many in a row without data."""
_TIMEOUT_S = 30.0
_BLOCK_BYTES = 1 << 20
_MARGIN_BYTES = 64 << 20  # left free on the disk

Tell = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many."""


def pull(model: BaseModel, models: Path, accepted: str, tell: Tell, waits_s: tuple[float, ...] = WAITS_S) -> Path:
    """Download a base model into models/, or resume an earlier download.

    Args:
        models: The spool's folder of models; made if it is not there.
        accepted: How its licence was accepted, for the record: `flag` or `question`.
        tell: Called with the progress.

    Returns:
        The model's folder.

    Raises:
        EngineMissing: It could not be downloaded; says why, and what to do.
        Hold: Another download of it is running.
    """
    target, staging = models / model.folder, models / f".pull-{model.name}"
    download = Download(model, staging / model.revision, tell, waits_s, _endpoint())
    staging.mkdir(parents=True, exist_ok=True)
    with _alone(staging):
        if target.is_dir() and os.listdir(target):
            raise EngineMissing(
                f"{printable(target)} exists, but does not hold the whole model",
                "Move or remove that folder, then run the same command again.",
            )
        _only(staging, {"lock", model.revision})
        download.all()
        for name, content in model.notes:
            durable.replace(download.folder / name, content.encode(), mode=0o644)
        durable.write_new(download.folder / RECORD, _record(model, accepted, download.endpoint), mode=0o644)
        durable.fsync(download.folder)
        os.rename(download.folder, target)
        durable.fsync(models)
        durable.remove_tree(staging)
    return target


def state(model: BaseModel, models: Path) -> dict[str, Any]:
    """What is there of a base model, for `models list`: where it is, what of it, and what was not taken for it."""
    there = {folder: base_models.fault(model, folder) for folder in base_models.candidate_folders(model, models)}
    begun = models / f".pull-{model.name}" / model.revision
    return {
        "name": model.name,
        "title": model.title,
        "licence": model.licence.title,
        "licence_url": model.licence.url,
        "folder": next((str(folder) for folder, fault in there.items() if not fault), None),
        "size_bytes": model.size_bytes,
        "downloaded_bytes": sum(_size(begun / file.name) for file in model.files),
        "not_usable": {str(folder): fault for folder, fault in there.items() if fault},
        "needs": list(model.needs),
        "command": model.command if model.files else None,
    }


def wanted(model: BaseModel) -> list[BaseModel]:
    """A base model and its dependencies, itself last."""
    return [*(base_models.BASE_MODELS[name] for name in model.needs), model]


def present(model: BaseModel, models: Path, *, anywhere: bool) -> Path | None:
    """Where a base model is, complete: in models/, or with `anywhere` in a cache of this user too."""
    found = base_models.find(model.name, models)
    return found if found is not None and (anywhere or found.is_relative_to(models)) else None


def verify(model: BaseModel, folder: Path, tell: Tell) -> None:
    """Read every file of a model, and compare it with what was published.

    Raises:
        EngineMissing: Some are not the same; says which.
    """
    there = [file for file in model.files if (folder / file.name).is_file()]
    wrong, done, total = [], 0, sum(file.size for file in there)
    for file in there:
        tell(f"checking {file.name}", done, total)
        if durable.sha256_of(folder / file.name) != file.sha256:
            wrong.append(file.name)
        done += file.size
    if wrong:
        raise EngineMissing(
            f"{printable(folder)}: not as published: {', '.join(wrong)}",
            f"Remove that folder, then run `{model.command}`.",
        )


# --- the download ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Download:
    """One download of one model into a folder."""

    model: BaseModel
    folder: Path
    tell: Tell
    waits_s: tuple[float, ...]
    endpoint: str
    came: bool = False  # something, in this run: a connection that breaks now is worth another try

    def all(self) -> None:
        self.folder.mkdir(exist_ok=True)
        _only(self.folder, {file.name.partition("/")[0] for file in self.model.files})
        _check_space(self.model.size_bytes - self._done(), self.folder)
        try:
            for file in self.model.files:
                self._fetch(file)
                self._check(file)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise EngineMissing(
                f"the disk of {printable(self.folder)} is full", f"Free disk space. {_GO_ON}"
            ) from error

    def _done(self) -> int:
        return sum(min(_size(self.folder / file.name), file.size) for file in self.model.files)

    def _fetch(self, file: PublishedFile) -> None:
        path = self.folder / file.name
        path.parent.mkdir(exist_ok=True)
        waits = iter(self.waits_s)
        while (have := _size(path)) < file.size:
            try:
                self._receive(file, path, have)
            except _Broken as broken:
                if _size(path) > have:
                    waits = iter(self.waits_s)
                pause = next(waits, None) if self.came and not broken.final else None
                if pause is None:
                    raise self._failed(file, broken) from broken
                time.sleep(pause)

    def _receive(self, file: PublishedFile, path: Path, have: int) -> None:
        """Request the rest of a file, and keep every byte that is received."""
        wanted = {"Range": f"bytes={have}-"} if have else {}
        with _open(self._url(file), wanted) as response, path.open("ab") as out:
            if have and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                out.truncate(0)  # a server that knows no ranges starts over
            done, total = self._done(), self.model.size_bytes
            left = file.size - _size(path)
            while left > 0 and (block := _block(response, min(left, _BLOCK_BYTES))):
                out.write(block)
                self.came = True
                left -= len(block)
                done += len(block)
                self.tell(file.name, done, total)
            if left > 0:
                raise _Broken(ConnectionError(f"the connection ended {left} bytes early"))
            out.flush()
            os.fsync(out.fileno())

    def _url(self, file: PublishedFile) -> str:
        return f"{self.endpoint}/{self.model.repository}/resolve/{self.model.revision}/{quote(file.name)}"

    def _check(self, file: PublishedFile) -> None:
        """Remove a file that differs from the published one."""
        path = self.folder / file.name
        self.tell(f"checking {file.name}", self._done(), self.model.size_bytes)
        if durable.sha256_of(path) == file.sha256:
            return
        path.unlink()
        raise EngineMissing(
            f"{file.name} from {printable(self.endpoint)} does not have the SHA-256 of the published file, and was "
            "removed",
            "Run the same command again; it downloads only that file.",
        )

    def _failed(self, file: PublishedFile, broken: _Broken) -> EngineMissing:
        if broken.final:
            hint = "If HF_ENDPOINT names a mirror, check that it has the model. If HF_TOKEN is set, it is sent."
        elif self.came:
            hint = _GO_ON
        else:
            hint = (
                "Check the network and the proxy (HTTPS_PROXY). On a machine without network, copy the model's folder "
                f"from another machine to models/{self.model.folder}."
            )
        source = f"{self.endpoint}/{self.model.repository}"
        return EngineMissing(f"{printable(source, 300)} did not send {file.name}: {broken}", hint)


_GO_ON = "Run the same command again; it resumes the download."
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


# --- HTTP ------------------------------------------------------------------------------------------------------------


class _Broken(Exception):
    """The other end, or the way to it, did not do its part. `final`: it would not do so a second time either."""

    def __init__(self, error: Exception) -> None:
        self.final = False
        cause = getattr(error, "reason", error)  # of a URLError: the system's own error, or words
        reason = getattr(cause, "strerror", None) or cause or type(cause).__name__
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            self.final = error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR and error.code not in {408, 429}
            reason = f"{error.code} {reason}"
        super().__init__(printable(reason, 300))


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Keeps what goes wrong on the network apart from what goes wrong on the disk."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(error) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """The hub sends big files on to another host, which has no business with the user's token."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        before, after = arguments[0], super().redirect_request(*arguments)
        if after is not None and urlsplit(after.full_url)[:2] != urlsplit(before.full_url)[:2]:
            after.remove_header("Authorization")
        return after


@_network()
def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `_endpoint` lets http and https through
    request.add_header("User-Agent", f"voicespool/{version('voicespool')}")
    request.add_header("Accept-Encoding", "identity")
    if token := os.environ.get("HF_TOKEN"):
        request.add_header("Authorization", f"Bearer {token.strip()}")
    opened: http.client.HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT_S)
    return opened


@_network()
def _block(response: http.client.HTTPResponse, most: int) -> bytes:
    """The next bytes; none at the end."""
    return response.read1(most)


def _endpoint() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise EngineMissing(
            "HF_HUB_OFFLINE is set, so nothing is downloaded", "Unset it, then run the same command again."
        )
    given = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if urlsplit(given).scheme not in {"http", "https"}:
        raise EngineMissing(
            f"HF_ENDPOINT is {printable(given, 200)}", "Set it to an address such as https://example.org"
        )
    return given.rstrip("/")


# --- the disk --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(staging: Path) -> Iterator[None]:
    with (staging / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Hold(
                f"another download into {printable(staging.parent)} is running", "Wait for it to finish."
            ) from None
        yield


def _only(folder: Path, names: set[str]) -> None:
    """Remove what an older version of this program, or of the model, left behind."""
    for name in set(os.listdir(folder)) - names:
        path = folder / name
        durable.remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _check_space(missing_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if missing_bytes and free < missing_bytes + _MARGIN_BYTES:
        needed = missing_bytes + _MARGIN_BYTES
        raise EngineMissing(
            f"the disk of {printable(folder.parents[1])} has {in_mb(free)} free; the model needs {in_mb(needed)}",
            "Free disk space, or set `models` in config.yaml to a folder on another disk.",
        )


def in_mb(size: int) -> str:
    """`1,868 MB`; whole megabytes, rounded up."""
    return f"{-(-size // 1_000_000):,} MB"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _record(model: BaseModel, accepted: str, endpoint: str) -> bytes:
    """What came from where, and that its licence was accepted."""
    record = {
        "model": model.name,
        "source": f"{endpoint}/{model.repository}",
        "revision": model.revision,
        "pulled_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": {"title": model.licence.title, "url": model.licence.url, "accepted_by": accepted},
        "sha256": {file.name: file.sha256 for file in model.files},
    }
    return json.dumps(record, indent=2).encode() + b"\n"
