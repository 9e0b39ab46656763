"""Reads the header of a model file of any supported format. Nothing in it is executed, and no weights are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engines.modelfiles import safetensors_header, torch_file
from engines.modelfiles.tensor_file import COPY_AGAIN, Entry, HoldsCode, TensorBytes, TensorFile, UnreadableModelFile

__all__ = ["Entry", "HoldsCode", "TensorFile", "UnreadableModelFile", "read"]

_FORMATS = "Model files are .safetensors, or .pt and .pth as saved by torch."


def read(path: Path) -> TensorFile:
    """Read the header of a file; the format is recognised by content, not by the suffix.

    Time and memory are bounded; for 5 GB it takes milliseconds.

    Raises:
        UnreadableModelFile: It is broken, hostile, or not a model file.
        OSError: It can't be opened or read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # without O_NONBLOCK a FIFO would block
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnreadableModelFile("it is not a file", _FORMATS)
        source = TensorBytes(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return _read(path, source)
    finally:
        os.close(descriptor)


def _read(path: Path, source: TensorBytes) -> TensorFile:
    if source.size == 0:
        raise UnreadableModelFile("it is empty", COPY_AGAIN)
    head = source.at(0, min(source.size, 512))
    if head.startswith(b"PK\3\4"):
        return TensorFile(path, "torch", *torch_file.read(source))
    if safetensors_header.looks_like_it(head):
        return TensorFile(path, "safetensors", *safetensors_header.read(source))
    if head.startswith(_PICKLES):
        torch_file.refuse_bare_pickle(source)
    raise next(
        (UnreadableModelFile(reason, cure) for magic, reason, cure in _OTHERS if head.startswith(magic)),
        UnreadableModelFile("it is neither safetensors nor a file saved by torch", _FORMATS),
    )


_PICKLES = (b"\x80", b"(", b"c", b"]", b"}")
_OTHERS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull."),
    (b"<", "it is a web page, not a model", "Download the file itself; on a model hub it is the link `resolve`."),
    (b"GGUF", "it is a GGUF file, which is not supported", _FORMATS),
)
