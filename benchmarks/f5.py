"""Compares our F5-TTS with f5-tts: `make bench-f5`.

The model has random weights and the size of F5-TTS v1 Base, so it takes as long as a real one. Both sides alternate in
one run, so that other load on the machine slows both. Both get the same chunks, lengths and steps. Results go to
`benchmarks/results/`, one file for each device.

    chunk     a text of one chunk, from the same noise: seconds, and the difference of the audio
    text      a text of several chunks: seconds
    load      loading in a new process: seconds, and peak memory
    memory    peak memory of loading, a chunk and a text with each `device.profile`, in new processes: on a GPU that
              allocated by torch, on a CPU the growth of the process
    vocoders  our Vocos and BigVGAN with 10 s of mel spectrogram: seconds, and their ratio
    profile   the kernels or operations that take most time
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comparison
from comparison import LIBRARY, in_process, in_processes, in_turn, precisions, profiled, report, speed_ups
from engines.device import runtime
from machine import of_rounds
from tests import process_memory

PARTS = ("chunk", "text", "load", "memory", "vocoders", "profile")
MODEL = "F5TTS_v1_Base"
SEED = 1
TRANSCRIPT = "The harbour was quiet when the first boats came in, and nobody had slept much that night. "
REFERENCE_S = 6.0
CHUNK = "She counted the crates twice, wrote the number down, and counted them again before the rain came."
TEXT = (
    "By noon the market was full of people who wanted to know what had happened during the night. "
    "It was not the kind of story that one tells to strangers, and nobody told it. "
    "The old man said that he had seen lights on the water, far out, where no ship should have been. "
    "He had watched them for an hour, until the fog came, and then he had gone home and closed the shutters. "
    "Somebody laughed, and somebody else told him to be quiet. "
    "They went home before dark, earlier than they used to, and the lamps were lit in every house along the quay."
)

GPU_REPEATS = 8
"""How often the text is repeated on a GPU; once is too little work for it."""


def prepare() -> None:
    """Set up torch and f5-tts as the worker does; recordings are read without FFmpeg."""
    comparison.prepare()
    import soundfile
    import torch
    import torchaudio

    def load(path: str) -> tuple[Any, int]:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), rate_hz

    torchaudio.load = load


# --- both sides -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A text to render.

    Attributes:
        folder: Of the model, with the recording `reference.wav`.
        text: The text.
        device: As in `Runtime`.
        steps: Steps of the ODE solver for each chunk, with guidance.
    """

    folder: Path
    text: str
    device: str
    steps: int


def library(folder: Path, device: str) -> Any:
    """Load a model with f5-tts."""
    from f5_tts.api import F5TTS

    files = {"ckpt_file": str(folder / "model.safetensors"), "vocab_file": str(folder / "vocab.txt")}
    with redirect_stdout(sys.stderr):
        return F5TTS(MODEL, **files, vocoder_local_path=str(folder / "vocos"), device=device)


def ours(folder: Path, device: str, precision: str, vocoder_device: str | None = None) -> Any:
    """Load a model with our code, as the engine does."""
    import torch

    from engines.checkpoints import inspection
    from engines.f5.net.model import F5Files, F5Model

    found = inspection.inspect(folder / "model.safetensors")
    assert found.sizes is not None
    files = F5Files(found.path, found.tensors, found.sizes, folder / "vocos")
    return F5Model(files, device, getattr(torch, precision), vocoder_device)


def render_with_library(model: Any, task: Task) -> Any:
    """Samples, float32 [n]."""
    with redirect_stdout(sys.stderr):
        samples, _rate_hz, _mel = model.infer(
            str(task.folder / "reference.wav"), TRANSCRIPT, task.text, show_info=lambda *_words: None, progress=None,
            nfe_step=task.steps, seed=SEED,
        )  # fmt: skip
    return samples


def requests(task: Task) -> list[Any]:
    """The chunks into which f5-tts splits a text, with the durations that it chooses."""
    import torch
    import torchaudio
    from f5_tts.infer import utils_infer
    from f5_tts.model.utils import convert_char_to_pinyin

    from engines.checkpoints import f5_vocabulary
    from engines.f5.net.flow import SolverSettings
    from engines.f5.net.model import Request
    from engines.torch.mel import HOP, reference_mel

    with redirect_stdout(sys.stderr):
        path, transcript = utils_infer.preprocess_ref_audio_text(
            str(task.folder / "reference.wav"), TRANSCRIPT, lambda *_words: None
        )
    samples, rate_hz = torchaudio.load(path)
    reference_s, reference = samples.shape[-1] / rate_hz, reference_mel(samples, rate_hz)
    max_chars = int(len(transcript.encode()) / reference_s * (22 - reference_s))
    transcript += " "
    hops = samples.shape[-1] // HOP
    token_ids = f5_vocabulary.read(task.folder / "vocab.txt").char_map(f5_vocabulary.LIBRARY_SYMBOLS)
    made = []
    for number, chunk in enumerate(utils_infer.chunk_text(task.text, max_chars=max_chars)):
        (symbols,) = convert_char_to_pinyin([transcript + chunk])
        frames = hops + int(hops / len(transcript.encode()) * len(chunk.encode()))
        tokens = torch.tensor([token_ids.get(symbol, 0) for symbol in symbols])
        made.append(Request(number, reference, tokens, frames, SolverSettings(task.steps), SEED))
    return made


def render_with_ours(model: Any, wanted: Sequence[Any], budget: int | None = None) -> Any:
    """Samples of all chunks, float32 [n]. Batches take at most the budget in bytes, or half of the free memory."""
    import torch

    from engines.checkpoints.f5_variant import V1
    from engines.device.runtime import free_bytes

    if budget is None:
        budget = free_bytes(str(model.backbone.device)) // 2
    samples = dict(rendered for rendered in model.render(wanted, V1, budget) if rendered is not None)
    return torch.cat([samples[number] for number in range(len(wanted))]).numpy()


# --- parts ------------------------------------------------------------------------------------------------------------


def render(task: Task, rounds: int) -> dict[str, Any]:
    """Render a text with each side in turn."""
    wanted = requests(task)
    sides = both_sides(task, wanted)
    if task.device != "cpu":  # warm-up: kernels are loaded at their first use, our CUDA graphs captured at the second
        for name, side in sides.items():
            for _ in range(1 if name == LIBRARY else 2):
                side()
    seconds, samples = in_turn(sides, rounds, task.device)
    audio_s = sum(request.frames - len(request.reference.mel) for request in wanted) * 256 / 24_000
    results: dict[str, Any] = {
        "frames": [request.frames for request in wanted],
        "steps": task.steps,
        "audio_s": round(audio_s, 1),
    }
    for name, values in seconds.items():
        results[name] = {
            "seconds": of_rounds(values),
            "real_time_factor": of_rounds([value / audio_s for value in values]),
        }
        if name != LIBRARY:
            results[name]["times_the_library"] = speed_ups(seconds[LIBRARY], values)
    if len(wanted) == 1 and task.device == "cpu":  # otherwise f5-tts draws other noise
        results["apart"] = compared(samples)
    return results


def both_sides(task: Task, wanted: Sequence[Any]) -> dict[str, Callable[[], Any]]:
    """f5-tts, and our model in each precision, loaded."""

    def our_side(precision: str) -> Callable[[], Any]:
        model = ours(task.folder, task.device, precision)
        return lambda: render_with_ours(model, wanted)

    model = library(task.folder, task.device)
    sides = {LIBRARY: lambda: render_with_library(model, task)}
    return sides | {precision: our_side(precision) for precision in precisions(task.device)}


def compared(samples: Mapping[str, Any]) -> dict[str, float]:
    """Largest difference from the samples of f5-tts, as a share of their peak, by side."""
    import numpy as np

    theirs = samples[LIBRARY]
    peak = np.abs(theirs).max()
    return {name: float(f"{np.abs(own - theirs).max() / peak:.2g}") for name, own in samples.items()}


def load(folder: Path, device: str, rounds: int) -> dict[str, Any]:
    """Load in new processes, alternately. Seconds are without and with imports."""
    runs = in_processes(__file__, folder, device, rounds)

    def column(name: str, key: str) -> list[float]:
        return [run[key] for run in runs[name]]

    keys = ("seconds", "with_imports_s", "peak_gib")
    results: dict[str, Any] = {name: {key: of_rounds(column(name, key)) for key in keys} for name in runs}
    for name in precisions(device):
        for key, ratio in (("seconds", "times_the_library"), ("with_imports_s", "times_the_library_with_imports")):
            results[name][ratio] = speed_ups(column(LIBRARY, key), column(name, key))
    return results


def load_once(folder: Path, device: str, name: str, began_s: float) -> dict[str, float]:
    """Load once in this process. The peak memory is that of the whole process, including torch."""
    if name == LIBRARY:
        import f5_tts.api  # noqa: F401 - imports are measured separately
    else:
        import engines.f5.net.model  # noqa: F401 - imports are measured separately

    started_s = time.perf_counter()
    loaded = library(folder, device) if name == LIBRARY else ours(folder, device, name)
    ended_s = time.perf_counter()
    del loaded
    return {
        "seconds": ended_s - started_s,
        "with_imports_s": ended_s - began_s,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def memory(tasks: Sequence[Task]) -> dict[str, Any]:
    """Peak memory of loading and of each task, for each profile and its precisions."""
    device = tasks[0].device
    half = "bfloat16" if device == "cpu" or runtime.fast_bfloat16(device) else "float16"
    results = {}
    for side in (*(f"auto {precision}" for precision in precisions(device)), f"low_vram {half}"):
        print(f"memory, {side} ...", flush=True)
        results[side] = in_process(__file__, tasks[0].folder, device, "--memory-once", side)
    return results


def memory_once(tasks: Sequence[Task], side: str) -> dict[str, Any]:
    """Peak memory of loading and of each task in this process, and the estimate for its largest request; in MiB."""
    profile, precision = side.split()
    device = tasks[0].device
    is_small = profile == "low_vram"
    render_with_ours(ours(tasks[0].folder, device, precision), requests(tasks[0])[:1])  # loads code and kernels
    growth = MemoryGrowth(device)
    model = ours(tasks[0].folder, device, precision, "cpu" if is_small else None)
    results: dict[str, Any] = {"loading": growth.peak(), "weights": growth.now()}
    for name, task in zip(("chunk", "text"), tasks, strict=True):
        wanted = requests(task)
        growth.reset_peak()
        render_with_ours(model, wanted, 0 if is_small else None)
        results[name] = growth.peak()
        results[f"{name}_request_by_formula"] = max(map(model.request_bytes, wanted)) >> 20
    return results


class MemoryGrowth:
    """Growth of memory since this object was made, in MiB: on a GPU or of the process."""

    def __init__(self, device: str) -> None:
        import torch

        self._now, self._peak = process_memory.now, process_memory.most
        self.reset_peak: Callable[[], None] = process_memory.forget
        if device != "cpu":
            self._now = partial(torch.cuda.memory_allocated, device)
            self._peak = partial(torch.cuda.max_memory_allocated, device)
            self.reset_peak = partial(torch.cuda.reset_peak_memory_stats, device)
        runtime.release(device)
        self._before = self._now()
        self.reset_peak()

    def now(self) -> int:
        return (self._now() - self._before) >> 20

    def peak(self) -> int:
        return (self._peak() - self._before) >> 20


def vocoders(folder: Path, device: str, rounds: int) -> dict[str, Any]:
    """Convert the same mel spectrogram with both vocoders, in turn."""
    import torch

    import tiny_f5
    from engines.torch.bigvgan import BigVGAN
    from engines.torch.vocos import Vocos

    on = torch.device(device)
    if not (bigvgan := folder / "bigvgan").exists():
        tiny_f5.build_bigvgan(bigvgan, tiny=False)
    both: dict[str, Callable[[Any], Any]] = {"bigvgan": BigVGAN(bigvgan, on), "vocos": Vocos(folder / "vocos", on)}
    mel = torch.randn(938, 100, generator=torch.Generator().manual_seed(SEED)).to(on)
    with torch.inference_mode():
        sides = {name: partial(vocoder, [mel]) for name, vocoder in both.items()}
        for side in sides.values():
            side()
        seconds, _samples = in_turn(sides, rounds, device)
    results: dict[str, Any] = {name: {"seconds": of_rounds(values)} for name, values in seconds.items()}
    return results | {"bigvgan_times_vocos": speed_ups(seconds["bigvgan"], seconds["vocos"])}


def profile(task: Task) -> dict[str, Any]:
    """Profile rendering in each precision."""
    wanted = requests(task)
    return {
        precision: profiled(partial(render_with_ours, ours(task.folder, task.device, precision), wanted), task.device)
        for precision in precisions(task.device)
    }


# --- command ----------------------------------------------------------------------------------------------------------


@contextmanager
def full_size(given: Path | None) -> Iterator[Path]:
    """A folder with a full-size model: the given one, or a temporary one."""
    if given is not None:
        yield given.resolve()
        return
    import tiny_f5

    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as scratch:
        folder = Path(scratch).resolve() / "full"
        print("building a full-size model ...", flush=True)
        tiny_f5.build(folder, tiny_f5.KINDS["f5-v1-base"].full)
        tiny_f5.build_vocos(folder / "vocos", tiny=False)
        yield folder


def write_reference(path: Path) -> None:
    """Write a reference recording: a frequency-modulated tone with noise, without pauses at which f5-tts would cut."""
    import numpy as np
    import soundfile

    positions = np.arange(int(REFERENCE_S * 24_000))
    tone = np.sin(positions * 0.05 * (1 + 0.2 * np.sin(positions / 9_000)))
    noise = np.random.default_rng(0).standard_normal(len(positions))
    soundfile.write(path, (0.2 * tone + 0.02 * noise).astype("float32"), 24_000)


def main() -> None:
    began_s = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--model", type=Path, help="folder made by examples/tiny_f5.py --full (default: a new one)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="steps of the ODE solver (7 on a CPU, 16 on a GPU)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--load-once", help=argparse.SUPPRESS)
    parser.add_argument("--memory-once", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    prepare()
    if arguments.load_once:
        print(json.dumps(load_once(arguments.model, arguments.device, arguments.load_once, began_s)))
        return
    device, rounds = arguments.device, arguments.rounds
    steps = arguments.steps or (7 if device == "cpu" else 16)
    with full_size(arguments.model) as folder:
        write_reference(folder / "reference.wav")
        long = TEXT if device == "cpu" else " ".join([TEXT] * GPU_REPEATS)
        chunk, text = (Task(folder, words, device, steps) for words in (CHUNK, long))
        if arguments.memory_once:
            print(json.dumps(memory_once((chunk, text), arguments.memory_once)))
            return
        parts = {
            "chunk": lambda: render(chunk, rounds),
            "text": lambda: render(text, rounds),
            "load": lambda: load(folder, device, rounds),
            "memory": lambda: memory((chunk, text)),
            "vocoders": lambda: vocoders(folder, device, rounds),
            "profile": lambda: profile(chunk if device == "cpu" else text),
        }
        report("f5", device, parts, arguments.parts)


if __name__ == "__main__":
    main()
