"""Device, precision, memory, and the libraries around torch."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines.base import Device
from engines.device import runtime
from engines.device.allowance import processors
from engines.device.runtime import Runtime, choose, has_kernels
from engines.errors import EngineMissing, RequestRefused
from engines.f5.engine import F5

ROOT = Path(__file__).parents[4]
CPU = Device(name="cpu")


def python(code: str, *path: Path) -> list[str]:
    """Lines that a fresh interpreter prints; fails when it fails."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        (["sm_75", "sm_80", "sm_90", "sm_120"], (6, 1), False),  # GTX 10xx under a torch of CUDA 13
        (["sm_50", "sm_60", "sm_70"], (6, 1), True),  # ... and of CUDA 12.6
        (["sm_80"], (8, 9), True),  # machine code runs on later minor numbers
        (["sm_86"], (8, 0), False),  # ... and not on earlier ones
        (["sm_80"], (9, 0), False),  # ... nor on another major number
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["sm_100f"], (10, 3), True),
        (["sm_80", "compute_80"], (12, 0), True),  # the driver compiles it
        (["compute_90a"], (12, 0), False),
        (["compute_100f"], (12, 0), False),
        (["compute_90"], (8, 9), False),
        (["gfx90a", "sm_", ""], (9, 0), False),
        ([], (9, 0), False),
    ],
)
def test_which_cards_a_torch_has_kernels_for(built_for: list[str], capability: tuple[int, int], runs: bool) -> None:
    """By the rules of binary compatibility that nvcc's manual gives."""
    assert has_kernels(built_for, capability) is runs


def test_old_cards_are_told_which_torch_to_take() -> None:
    """Newer cards need a newer one."""
    assert "2.14 built for CUDA 12.6" in runtime.kernels_cure((6, 1))
    assert "newer torch" in runtime.kernels_cure((12, 0))


@pytest.mark.parametrize(
    ("maker", "flags", "precision"),
    [
        ("GenuineIntel", "fpu avx512_bf16 amx_bf16 amx_tile", "bfloat16"),
        ("GenuineIntel", "fpu avx512f avx512_bf16", "float32"),
        ("AuthenticAMD", "fpu avx512f avx512_bf16", "bfloat16"),
        ("AuthenticAMD", "fpu avx512f", "float32"),
        (None, "", "float32"),
    ],
)
def test_auto_precision_of_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: str | None, flags: str, precision: str
) -> None:
    """bfloat16 only where it is faster than float32. Engines that can't are left alone."""
    if maker is not None:
        one = f"processor\t: 0\nvendor_id\t: {maker}\nflags\t\t: {flags}\n\n"
        (tmp_path / "cpuinfo").write_text(one * 2)
    monkeypatch.setattr(runtime, "CPUINFO", tmp_path / "cpuinfo")
    assert choose(CPU) == Runtime("cpu", precision)
    assert choose(CPU, half_ok=False) == Runtime("cpu", "float32")


def test_what_is_asked_for_is_taken_or_refused() -> None:
    """Never something else in silence."""
    assert choose(Device("cpu", "bfloat16")) == Runtime("cpu", "bfloat16")
    assert choose(Device("cpu", "float32")) == Runtime("cpu", "float32")
    with pytest.raises(RequestRefused, match="float16 is") as refused:
        choose(Device("cpu", "float16"))
    assert "precision: auto" in refused.value.hint
    with pytest.raises(RequestRefused, match="only float32"):
        choose(Device("cpu", "bfloat16"), half_ok=False)


def test_a_card_that_is_not_there() -> None:
    """Named with what torch sees instead, and a cure."""
    with pytest.raises(EngineMissing, match="there is no GPU cuda:99") as missing:
        choose(Device("cuda:99"))
    assert "device: {name: auto}" in missing.value.hint


def test_an_engine_refuses_a_card_that_is_too_old(monkeypatch: pytest.MonkeyPatch, tiny_f5: Path) -> None:
    """By name, with what to install; where any device will do, the CPU is taken."""
    import torch

    told = {
        "is_available": True,
        "device_count": 1,
        "get_arch_list": ["sm_75", "sm_80", "sm_90"],
        "get_device_capability": (6, 1),
        "get_device_name": "NVIDIA GeForce GTX 1080",
    }
    for name, answer in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_card, answer=answer: answer)
    words = r"has no kernels for GPU 0, 'NVIDIA GeForce GTX 1080' \(sm_61\)"
    with pytest.raises(EngineMissing, match=words) as missing:
        F5().load(tiny_f5, Device("cuda"))
    assert missing.value.hint == runtime.kernels_cure((6, 1))
    assert choose(Device("auto", "float32")) == Runtime("cpu", "float32")


def test_names_become_torch_s_own() -> None:
    """Device and type as torch wants them."""
    import torch

    chosen = Runtime("cuda:1", "bfloat16")
    assert chosen.on_cuda
    assert chosen.torch_device == torch.device("cuda", 1)
    assert chosen.torch_dtype is torch.bfloat16


def test_out_of_memory_is_recognised() -> None:
    """Really asked of torch on the CPU; on cards by the words that torch uses."""
    import torch

    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 48)
    assert runtime.is_out_of_memory(real.value)
    for error in (
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        assert runtime.is_out_of_memory(error)
    assert not runtime.is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not runtime.is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_goes_back_to_the_system() -> None:
    """What is freed below something that still lives stays with the C library until it is told."""
    before, after = python(
        "from engines.device.runtime import release\n"
        "def kib(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])\n"
        "many = [bytearray(4096) for _ in range(20000)]\n"
        "kept = bytearray(4096)\n"
        "del many\n"
        "print(kib()); release('cpu'); print(kib())\n"
    )
    assert int(before) - int(after) > 40_000


def test_threads_follow_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_NUM_THREADS counts where it is a number."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runtime.threads() == 3
    for nonsense in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert runtime.threads() == processors()


# --- torchaudio ------------------------------------------------------------------------------------------------------

WHOLE = "_IS_TORCHAUDIO_EXT_AVAILABLE = True"
OTHER_CUDA = "raise RuntimeError('PyTorch and TorchAudio were compiled with different CUDA versions')"
NO_LIBRARY = "raise OSError('libc10_cuda.so: cannot open shared object file')"
PREPARE = (
    "from engines.errors import EngineMissing\n"
    "from engines.device.runtime import prepare_torchaudio\n"
    "try: print(prepare_torchaudio(), prepare_torchaudio())\n"
    "except EngineMissing as error: print(error)\n"
    "else:\n    import torchaudio\n    print(torchaudio.flag)\n"
)


def package(folder: Path, extension: str, itself: str = "") -> Path:
    """A torchaudio in the shape of the real one."""
    (folder / "torchaudio/_extension").mkdir(parents=True)
    (folder / "torchaudio/__init__.py").write_text(
        f"from . import _extension\nfrom ._extension import _IS_TORCHAUDIO_EXT_AVAILABLE as flag\n{itself}\n"
    )
    (folder / "torchaudio/_extension/__init__.py").write_text("from .parts import *\n_IS_TORCHAUDIO_EXT_AVAILABLE=True")
    (folder / "torchaudio/_extension/parts.py").write_text(extension)
    return folder


@pytest.mark.parametrize(
    ("extension", "itself", "says"),
    [
        (WHOLE, "", ["False False", "True"]),
        (OTHER_CUDA, "", ["True True", "False"]),
        (NO_LIBRARY, "", ["True True", "False"]),
        (WHOLE, "raise OSError('disk')", ["torchaudio can't be imported: disk"]),
        (WHOLE, "import nonsense_x", ["torchaudio can't be imported: No module named 'nonsense_x'"]),
    ],
)
def test_the_compiled_part_is_left_out_only_where_it_fails(
    tmp_path: Path, extension: str, itself: str, says: list[str]
) -> None:
    """For the two known reasons; whatever else is wrong with torchaudio is told."""
    assert python(PREPARE, package(tmp_path, extension, itself)) == says


def test_the_real_library_runs_on_it() -> None:
    """coqui-tts's XTTS imports beside this torch, torchaudio resamples and makes mel spectrograms, all is quiet."""
    assert python(
        "from engines.device import runtime\n"
        "runtime.quiet()\n"
        "runtime.prepare_torchaudio()\n"
        "import torch, torchaudio\n"
        "from TTS.tts.models.xtts import Xtts, wav_to_mel_cloning\n"
        "print(list(torchaudio.functional.resample(torch.zeros(1, 22050), 22050, 24000).shape))\n"
        "mel = torchaudio.transforms.MelSpectrogram(22050, n_fft=2048, hop_length=256, n_mels=80)\n"
        "print(list(mel(torch.zeros(1, 22050)).shape))\n"
        "from huggingface_hub import constants\n"
        "print(constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY)\n"
    ) == ["[1, 24000]", "[1, 80, 87]", "True True"]
