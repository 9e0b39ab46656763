"""F5-TTS, ours beside the library's own calls, in one run: `make bench-f5`.

The weights are random and of full size (F5-TTS v1 Base), which costs exactly what the real ones do. Library and ours
take turns, so that whatever else the machine does slows both; both get the same chunks, lengths and steps. Results go
to `benchmarks/results/`, a file for each device.

    chunk     a text of one chunk, from the same noise: seconds, and how far apart the sounds are
    text      a text of several chunks: seconds for all of it
    load      from nothing to a model that can speak, in fresh processes: seconds, and the most memory
    memory    the most that loading, a chunk and a text take under each `device.profile`, in fresh processes: of the
              card's memory what torch's allocator has out, else of the process beyond what it was before
    vocoders  ours of either kind, each with ten seconds of mel: seconds, and how many times Vocos BigVGAN takes
    profile   where the time goes
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

import beside
from beside import LIBRARY, in_process, in_processes, in_turn, precisions, profiled, report, times
from engines.device import runtime
from machine import of_rounds
from tests import process_memory

PARTS = ("chunk", "text", "load", "memory", "vocoders", "profile")
MODEL = "F5TTS_v1_Base"
SEED = 1
HEARD = "The harbour was quiet when the first boats came in, and nobody had slept much that night. "
HEARD_S = 6.0
CHUNK = "She counted the crates twice, wrote the number down, and counted them again before the rain came."
TEXT = (
    "By noon the market was full of people who wanted to know what had happened during the night. "
    "It was not the kind of story that one tells to strangers, and nobody told it. "
    "The old man said that he had seen lights on the water, far out, where no ship should have been. "
    "He had watched them for an hour, until the fog came, and then he had gone home and closed the shutters. "
    "Somebody laughed, and somebody else told him to be quiet. "
    "They went home before dark, earlier than they used to, and the lamps were lit in every house along the quay."
)

ON_A_CARD = 8
"""So many times the text is said there: a card is not busy with a minute of speech."""


def prepare() -> None:
    """torch and the library as the worker has them; recordings are opened without FFmpeg."""
    beside.prepare()
    import soundfile
    import torch
    import torchaudio

    def load(path: str) -> tuple[Any, int]:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), rate_hz

    torchaudio.load = load


# --- the two sides ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What both sides have to say.

    Attributes:
        folder: Of the model, with the recording `heard.wav`.
        steps: Evaluations for each chunk, each with guidance.
    """

    folder: Path
    text: str
    device: str
    steps: int


def library(folder: Path, device: str) -> Any:
    """The library's own model, by its own loader."""
    from f5_tts.api import F5TTS

    files = {"ckpt_file": str(folder / "model.safetensors"), "vocab_file": str(folder / "vocab.txt")}
    with redirect_stdout(sys.stderr):
        return F5TTS(MODEL, **files, vocoder_local_path=str(folder / "vocos"), device=device)


def ours(folder: Path, device: str, precision: str, vocoder_device: str | None = None) -> Any:
    """Our model, as an engine loads it."""
    import torch

    from engines.checkpoints import inspection
    from engines.f5.net.model import F5Files, F5Model

    found = inspection.inspect(folder / "model.safetensors")
    assert found.sizes is not None
    files = F5Files(found.path, found.tensors, found.sizes, folder / "vocos")
    return F5Model(files, device, getattr(torch, precision), vocoder_device)


def said_by_library(model: Any, task: Task) -> Any:
    """Samples."""
    with redirect_stdout(sys.stderr):
        sound, _rate_hz, _mel = model.infer(
            str(task.folder / "heard.wav"), HEARD, task.text, show_info=lambda *_words: None, progress=None,
            nfe_step=task.steps, seed=SEED,
        )  # fmt: skip
    return sound


def requests(task: Task) -> list[Any]:
    """The chunks that the library makes of a text, as long as it makes them."""
    import torch
    import torchaudio
    from f5_tts.infer import utils_infer
    from f5_tts.model.utils import convert_char_to_pinyin

    from engines.checkpoints import f5_vocabulary
    from engines.f5.net.flow import SolverSettings
    from engines.f5.net.model import Request
    from engines.torch.mel import HOP, reference_mel

    with redirect_stdout(sys.stderr):
        path, words = utils_infer.preprocess_ref_audio_text(str(task.folder / "heard.wav"), HEARD, lambda *_words: None)
    samples, rate_hz = torchaudio.load(path)
    heard_s, reference = samples.shape[-1] / rate_hz, reference_mel(samples, rate_hz)
    most = int(len(words.encode()) / heard_s * (22 - heard_s))
    words += " "
    hops = samples.shape[-1] // HOP
    numbers = f5_vocabulary.read(task.folder / "vocab.txt").char_map(f5_vocabulary.LIBRARY_SYMBOLS)
    made = []
    for number, chunk in enumerate(utils_infer.chunk_text(task.text, max_chars=most)):
        (symbols,) = convert_char_to_pinyin([words + chunk])
        frames = hops + int(hops / len(words.encode()) * len(chunk.encode()))
        tokens = torch.tensor([numbers.get(symbol, 0) for symbol in symbols])
        made.append(Request(number, reference, tokens, frames, SolverSettings(task.steps), SEED))
    return made


def said_by_us(model: Any, wanted: Sequence[Any], budget: int | None = None) -> Any:
    """Samples, chunk after chunk; batches take at most the budget, in bytes, or half of what is free."""
    import torch

    from engines.checkpoints.f5_variant import V1
    from engines.device.runtime import free_bytes

    if budget is None:
        budget = free_bytes(str(model.backbone.device)) // 2
    made = dict(one for one in model.render(wanted, V1, budget) if one is not None)
    return torch.cat([made[number] for number in range(len(wanted))]).numpy()


# --- parts ------------------------------------------------------------------------------------------------------------


def render(task: Task, rounds: int) -> dict[str, Any]:
    """Each side speaks the whole text, in turn."""
    wanted = requests(task)
    speakers = both_sides(task, wanted)
    if task.device != "cpu":  # kernels are loaded at their first use, and ours are recorded at their second
        for name, speak in speakers.items():
            for _ in range(1 if name == LIBRARY else 2):
                speak()
    seconds, sounds = in_turn(speakers, rounds, task.device)
    audio_s = sum(one.frames - len(one.reference.mel) for one in wanted) * 256 / 24_000
    told: dict[str, Any] = {
        "frames": [one.frames for one in wanted],
        "steps": task.steps,
        "audio_s": round(audio_s, 1),
    }
    for name, taken in seconds.items():
        told[name] = {
            "seconds": of_rounds(taken),
            "real_time_factor": of_rounds([one / audio_s for one in taken]),
        }
        if name != LIBRARY:
            told[name]["times_the_library"] = times(seconds[LIBRARY], taken)
    if len(wanted) == 1 and task.device == "cpu":  # else the library's noise is another
        told["apart"] = compared(sounds)
    return told


def both_sides(task: Task, wanted: Sequence[Any]) -> dict[str, Callable[[], Any]]:
    """The library, and ours in each precision, ready to speak."""

    def speaking(precision: str) -> Callable[[], Any]:
        model = ours(task.folder, task.device, precision)
        return lambda: said_by_us(model, wanted)

    model = library(task.folder, task.device)
    sides = {LIBRARY: lambda: said_by_library(model, task)}
    return sides | {precision: speaking(precision) for precision in precisions(task.device)}


def compared(sounds: Mapping[str, Any]) -> dict[str, float]:
    """How far from the library's sound each is, at its loudest sample, of the library's loudest one."""
    import numpy as np

    theirs = sounds[LIBRARY]
    loudest = np.abs(theirs).max()
    return {name: float(f"{np.abs(one - theirs).max() / loudest:.2g}") for name, one in sounds.items()}


def load(folder: Path, device: str, rounds: int) -> dict[str, Any]:
    """Fresh processes, taking turns; what is imported is imported before the clock starts."""
    runs = in_processes(__file__, folder, device, rounds)
    told: dict[str, Any] = {
        name: {
            "seconds": of_rounds([one["seconds"] for one in done]),
            "with_imports_s": of_rounds([one["with_imports_s"] for one in done]),
            "peak_gib": of_rounds([one["peak_gib"] for one in done]),
        }
        for name, done in runs.items()
    }
    for name in precisions(device):
        for what, ratio in (("seconds", "times_the_library"), ("with_imports_s", "times_the_library_with_imports")):
            told[name][ratio] = times([one[what] for one in runs[LIBRARY]], [one[what] for one in runs[name]])
    return told


def load_once(folder: Path, device: str, name: str, began_s: float) -> dict[str, float]:
    """One load in this process; the most memory is that of the process, torch and all."""
    if name == LIBRARY:
        import f5_tts.api  # noqa: F401 - the import is not what is measured
    else:
        import engines.f5.net.model  # noqa: F401 - the same

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
    """Loading and each task, under each profile and in each precision that it comes in."""
    device = tasks[0].device
    half = "bfloat16" if device == "cpu" or runtime.fast_bfloat16(device) else "float16"
    told = {}
    for side in (*(f"auto {precision}" for precision in precisions(device)), f"low_vram {half}"):
        print(f"memory, {side} ...", flush=True)
        told[side] = in_process(__file__, tasks[0].folder, device, "--memory-once", side)
    return told


def memory_once(tasks: Sequence[Task], side: str) -> dict[str, Any]:
    """Loading and each task in this process, in MiB; and what the formula says of each task's largest request."""
    profile, precision = side.split()
    device = tasks[0].device
    is_small = profile == "low_vram"
    said_by_us(ours(tasks[0].folder, device, precision), requests(tasks[0])[:1])  # what code and kernels take is there
    taken = Taken(device)
    model = ours(tasks[0].folder, device, precision, "cpu" if is_small else None)
    told: dict[str, Any] = {"loading": taken.most(), "weights": taken.now()}
    for name, task in zip(("chunk", "text"), tasks, strict=True):
        wanted = requests(task)
        taken.forget()
        said_by_us(model, wanted, 0 if is_small else None)
        told[name] = taken.most()
        told[f"{name}_request_by_formula"] = max(map(model.request_bytes, wanted)) >> 20
    return told


class Taken:
    """Memory taken since this was made, in MiB: of a card, or of the process."""

    def __init__(self, device: str) -> None:
        import torch

        self._now, self._most = process_memory.now, process_memory.most
        self.forget: Callable[[], None] = process_memory.forget
        if device != "cpu":
            self._now = partial(torch.cuda.memory_allocated, device)
            self._most = partial(torch.cuda.max_memory_allocated, device)
            self.forget = partial(torch.cuda.reset_peak_memory_stats, device)
        runtime.release(device)
        self._before = self._now()
        self.forget()

    def now(self) -> int:
        return (self._now() - self._before) >> 20

    def most(self) -> int:
        return (self._most() - self._before) >> 20


def vocoders(folder: Path, device: str, rounds: int) -> dict[str, Any]:
    """Either kind makes the sound of one mel, in turn."""
    import torch

    import tiny_f5
    from engines.torch.bigvgan import BigVGAN
    from engines.torch.vocos import Vocos

    place = torch.device(device)
    if not (other := folder / "bigvgan").exists():
        tiny_f5.build_bigvgan(other, tiny=False)
    both: dict[str, Callable[[Any], Any]] = {"bigvgan": BigVGAN(other, place), "vocos": Vocos(folder / "vocos", place)}
    mel = torch.randn(938, 100, generator=torch.Generator().manual_seed(SEED)).to(place)
    with torch.inference_mode():
        speakers = {name: partial(vocoder, [mel]) for name, vocoder in both.items()}
        for speak in speakers.values():
            speak()
        seconds, _sounds = in_turn(speakers, rounds, device)
    told: dict[str, Any] = {name: {"seconds": of_rounds(taken)} for name, taken in seconds.items()}
    return told | {"bigvgan_times_vocos": times(seconds["bigvgan"], seconds["vocos"])}


def profile(task: Task) -> dict[str, Any]:
    """Where the time of a rendering goes."""
    wanted = requests(task)
    return {
        precision: profiled(partial(said_by_us, ours(task.folder, task.device, precision), wanted), task.device)
        for precision in precisions(task.device)
    }


# --- all of it --------------------------------------------------------------------------------------------------------


@contextmanager
def full_size(given: Path | None) -> Iterator[Path]:
    """A folder with a full-size model and a recording: the one given, or one that lasts as long as this."""
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


def record(path: Path) -> None:
    """Something to listen to: a tone that sways, with noise, without a pause at which it would be cut."""
    import numpy as np
    import soundfile

    places = np.arange(int(HEARD_S * 24_000))
    tone = np.sin(places * 0.05 * (1 + 0.2 * np.sin(places / 9_000)))
    noise = np.random.default_rng(0).standard_normal(len(places))
    soundfile.write(path, (0.2 * tone + 0.02 * noise).astype("float32"), 24_000)


def main() -> None:
    began_s = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--model", type=Path, help="a folder that examples/tiny_f5.py --full made, instead of a new one"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="evaluations; 7 on a processor, else 16")
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
        record(folder / "heard.wav")
        long = TEXT if device == "cpu" else " ".join([TEXT] * ON_A_CARD)
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
