"""The doctor's checks of torch, the model libraries, the GPUs, and the device that engines run on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engines.device import allowance, runtime
from engines.device.torch_report import Gpu, TorchReport
from files.printable import printable
from watcher.config.settings import DeviceConfig
from watcher.doctor.finding import Finding, fail, ok, warn

TORCH_WAIT_S = 120
COMPANIONS = ("coqui-tts", "f5-tts", "transformers", "vocos")
DRIVER_CARDS = Path("/proc/driver/nvidia/gpus")

BESIDES_BYTES = 1 << 29  # what torch and a GPU's driver take for themselves, and a little air


@dataclass(frozen=True, slots=True)
class Memory:
    """What a model takes, in bytes; larger batches take what else is free.

    Attributes:
        weights: When it is loaded.
        peak: With one sentence of half a minute.
    """

    weights: int
    peak: int


NEEDS: Mapping[str, Mapping[tuple[str, str], Memory]] = {
    "XTTS-v2": {
        ("cpu", "32"): Memory(1_812_000_000, 1_900_000_000), ("cpu", "16"): Memory(1_060_000_000, 1_130_000_000),
        ("gpu", "32"): Memory(1_922_000_000, 2_200_000_000), ("gpu", "16"): Memory(1_134_000_000, 1_300_000_000),
    },
    "F5-TTS Base": {
        ("cpu", "32"): Memory(1_404_000_000, 1_700_000_000), ("cpu", "16"): Memory(1_280_000_000, 1_460_000_000),
        ("gpu", "32"): Memory(840_000_000, 1_090_000_000), ("gpu", "16"): Memory(463_000_000, 650_000_000),
    },
}  # fmt: skip
"""By place and bits of the arithmetic. On a processor measured (`benchmarks/f5.py --parts memory`), on a GPU from the
sizes of the tensors, which in 16 bits was what an H200 gave out; two fifths of an F5-TTS, which are used once for each
number of steps, never go there.
"""


def examine(device: DeviceConfig) -> Iterator[Finding]:
    """Ask torch in another process: it is large, and a broken one can crash."""
    if importlib.util.find_spec("torch") is None:
        yield ok("torch", "not installed; espeak does not need it")
        return
    asked = (device.name, device.precision, device.profile)
    command = [sys.executable, "-P", "-m", "engines.device.torch_report", *asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_WAIT_S, check=True)
        report = TorchReport.from_json(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        cure = "Restart the machine: a GPU's driver may hang. Until then, set `device: {name: cpu}`."
        yield warn("torch", f"installed, but no answer within {TORCH_WAIT_S} s", cure)
    except (subprocess.SubprocessError, OSError, ValueError, TypeError, KeyError, IndexError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        yield warn("torch", f"installed, but does not work: {printable(' '.join(last), 300)}", "Install torch again.")
    else:
        yield from judge(report, driver_cards())


def driver_cards() -> int:
    """How many GPUs NVIDIA's driver reports, whether torch can use them or not."""
    try:
        return sum(1 for _ in DRIVER_CARDS.iterdir())
    except OSError:
        return 0


def judge(report: TorchReport, driver_has: int) -> Iterator[Finding]:
    """What a report means for the operator of a spool.

    Args:
        report: Of this machine's torch.
        driver_has: Cards that the driver names.
    """
    yield ok("torch", printable(f"{report.version}, built for {report.built_for}", 120))
    yield from _libraries(report.torchaudio)
    if not report.gpus:
        yield _no_cards(report, driver_has)
    for number, gpu in enumerate(report.gpus):
        yield _gpu(number, gpu)
    if report.refused:
        yield fail("device", printable(report.refused, 300), printable(report.cure, 300), 4)
    else:
        yield from _device(report)


def _libraries(torchaudio: str) -> Iterator[Finding]:
    found = []
    for name in COMPANIONS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    if not found:
        yield ok("model libraries", "none is installed")
        return
    yield ok("model libraries", ", ".join(found))
    if torchaudio in ("whole", "without its compiled part"):
        why = "" if torchaudio == "whole" else ", which is for another torch; no engine needs that part"
        yield ok("torchaudio", f"{'complete' if torchaudio == 'whole' else torchaudio}{why}")
    else:
        cure = "Install the release of torchaudio that matches this torch."
        yield warn("torchaudio", printable(f"can't be imported: {torchaudio}", 300), cure)


def _no_cards(report: TorchReport, driver_has: int) -> Finding:
    if not driver_has:
        return ok("gpu", "none; engines use the CPU")
    words = printable(f"the driver reports {driver_has}, torch can use none: {report.complaint}", 400)
    if report.built_for == "the CPU only":
        return warn("gpu", words, "Install a torch that is built for CUDA: https://pytorch.org/get-started/locally/")
    cure = (
        "Update NVIDIA's driver, or install a torch built for an older CUDA. If both match: let this user open "
        "/dev/nvidia*, and check that CUDA_VISIBLE_DEVICES does not hide the GPU."
    )
    return warn("gpu", words, cure)


def _gpu(number: int, gpu: Gpu) -> Finding:
    major, minor = gpu.capability
    words = f"cuda:{number} is {printable(gpu.name, 100)} (sm_{major}{minor})"
    if not gpu.has_kernels:
        return warn("gpu", f"{words}: this torch has no kernels for it", runtime.kernels_cure(gpu.capability))
    if gpu.trouble:
        cure = "Run `nvidia-smi`: other programs may use its memory, or the GPU or its driver needs a restart."
        return warn("gpu", f"{words}: a test calculation failed: {printable(gpu.trouble, 300)}", cure)
    return ok("gpu", f"{words}, {_gib(gpu.free)} of {_gib(gpu.total)} GiB free; a test calculation was right")


def _device(report: TorchReport) -> Iterator[Finding]:
    """What engines run on, and whether their models fit into its memory."""
    number = report.device.partition(":")[2]
    gpu = report.gpus[int(number)] if number else None
    where = "the CPU" if report.device == "cpu" else report.device
    processors = f", {allowance.processors()} threads" if report.device == "cpu" else ""
    if gpu is not None and gpu.trouble:
        yield fail("device", f"engines would use {where}, which does not work", "Set `device: {name: cpu}`.", 4)
        return
    yield ok("device", f"engines run on {where} in {report.precision}{processors}, {_gib(report.free)} GiB free")
    if report.device == "cpu" and report.precision == "bfloat16" and not runtime.fast_bfloat16("cpu"):
        yield warn("device", "bfloat16 is slower than float32 on this processor", "Set `device: {precision: auto}`.")
    kind = "cpu" if report.device == "cpu" else "gpu", "32" if report.precision == "float32" else "16"
    for name, needs in NEEDS.items():
        yield _memory(name, needs[kind], report)


def _memory(name: str, need: Memory, report: TorchReport) -> Finding:
    sizes = f"{_gib(need.weights)} GiB, {_gib(need.peak + BESIDES_BYTES)} GiB with a long sentence and torch"
    words = f"{name} in {report.precision} needs {sizes}; {_gib(report.free)} GiB are free"
    if report.free >= need.peak + BESIDES_BYTES:
        return ok("memory", words)
    low = "" if report.device == "cpu" else ", or set `device: {profile: low_vram}`"
    cure = f"Free memory (other programs and a running worker use it), or choose another device{low}."
    return warn("memory", words, cure)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f}"
