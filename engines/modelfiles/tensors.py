"""Which tensors a model file has, by its header alone: nothing in it is run, and nothing of the weights is read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engines.modelfiles import safetensors_header, torch_file
from engines.modelfiles.tensor_file import COPY_AGAIN, Entry, HoldsCode, TensorBytes, TensorFile, UnreadableModelFile

__all__ = ["Entry", "HoldsCode", "TensorFile", "UnreadableModelFile", "read"]

_SAFETENSORS_OR_TORCH = "Model files are .safetensors, or .pt and .pth as torch saves them."


def read(path: Path) -> TensorFile:
    """Read the header of a file, whatever its name says it is.

    Takes milliseconds for a file of 5 GB, and bounded time and memory for any.

    Raises:
        Unreadable: It is no model file, or a broken or hostile one.
        OSError: It can't be opened or read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not be waited for
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnreadableModelFile("it is not a file", _SAFETENSORS_OR_TORCH)
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
        torch_file.refuse_old(source)
    raise next(
        (UnreadableModelFile(reason, cure) for begin, reason, cure in _OTHERS if head.startswith(begin)),
        UnreadableModelFile("it is neither safetensors nor a file of torch's", _SAFETENSORS_OR_TORCH),
    )


_PICKLES = (b"\x80", b"(", b"c", b"]", b"}")
_OTHERS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself", "Fetch it: git lfs pull."),
    (b"<", "it is a web page, not a model", "Download the file itself; on a model hub that is the link `resolve`."),
    (b"GGUF", "it is a GGUF file, for other programs", _SAFETENSORS_OR_TORCH),
)
