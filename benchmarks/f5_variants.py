"""Tests how well the measurement separates v0 from v1 of F5-TTS: `make bench-f5-variants`.

Trains ten small models, for five languages as v0 and as v1, with the modules and the loss of f5-tts: three minutes each
on one core. The data are numbers, read digit by digit by a voice of espeak-ng. Each model is saved as f5-tts does, and
then inspected, loaded and measured as the engine f5 does without other evidence, with recordings not in the training
data. Results go to `benchmarks/results/f5-variants-cpu.json`.

    trials        each model with two recordings: right, wrong or undecided
    on_the_way    the same trials at earlier updates of the training
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comparison

if TYPE_CHECKING:
    from torch import Tensor

LANGUAGES = ("de", "en", "es", "it", "pt")
VOICES = ("Andy", "Annie", "Denis", "Diogo")
UPDATES = 1500
EARLIER_UPDATES = (125, 250, 500, 1000)
TRAINING_RECORDINGS, DIGITS = 900, (1, 2, 3, 4)  # few digits: longer recordings need a longer training
HELD_OUT_DIGITS = (4, 4)
SPEED = 1.5
NOISE = 1e-3  # of full scale, as in a quiet room; the silence of espeak-ng is digital
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What one model is trained with.

    Attributes:
        variant: `v0` or `v1`, which decides the flags.
        language: Of the recordings.
        updates: Number of updates.
    """

    variant: str
    language: str
    updates: int


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as the engine f5 uses it.

    Attributes:
        mel: Mel spectrogram, float32 [frames, 100].
        text: Its transcript.
    """

    mel: Tensor
    text: str


def prepare() -> None:
    """Set up torch as the worker does, but with one thread for each process."""
    comparison.prepare()
    import torch

    torch.set_num_threads(1)


def voice(language: str) -> str:
    """The voice of espeak-ng for a language."""
    return random.Random(language).choice(VOICES)


def recordings(language: str, digits: Sequence[int], seed: int) -> list[Recording]:
    """Recordings of numbers, one with each of these numbers of digits, in the voice of a language."""
    import torch

    from engines.base import Audio, Chunk, ChunkList, Device
    from engines.espeak.engine import Espeak
    from engines.f5.net import reference
    from engines.f5.net.symbols import prompt_text
    from engines.torch.mel import reference_mel

    generator = random.Random(f"{language} {seed}")
    texts = [" ".join(generator.choices("0123456789", k=count)) + "." for count in digits]
    chunks = [Chunk(text, language, 0, speaker=voice(language), settings={"speed": SPEED}) for text in texts]
    espeak = Espeak()
    espeak.load(None, Device("cpu", "float32"))
    noise = torch.Generator().manual_seed(seed)
    made = []
    for index, audio in espeak.render(ChunkList(chunks)):
        assert isinstance(audio, Audio), audio
        samples = torch.from_numpy(audio.samples)
        samples = samples + NOISE * torch.randn(samples.shape, generator=noise)
        found = reference.fit(samples.numpy(), audio.rate_hz, texts[index])
        mel = reference_mel(torch.from_numpy(found.samples).unsqueeze(0), audio.rate_hz).mel
        made.append(Recording(mel, prompt_text(found.text)))
    espeak.close()
    return made


def train(plan: TrainingPlan, folder: Path) -> dict[str, Any]:
    """Train a model, with trials at `EARLIER_UPDATES` and at the end."""
    prepare()
    import tiny_f5
    from engines.checkpoints.f5_variant import BY_NAME
    from engines.f5.net.symbols import Tokenizer
    from tiny_f5_training import SIZES, Training

    own = folder / f"{plan.variant}-{plan.language}"
    own.mkdir()
    seed = LANGUAGES.index(plan.language)
    digits = random.Random(plan.language).choices(DIGITS, k=TRAINING_RECORDINGS)
    training_set = recordings(plan.language, digits, 0)
    held_out = recordings(plan.language, HELD_OUT_DIGITS, 1)
    vocabulary = [" ", *sorted({letter for recording in training_set for letter in recording.text} - {" "})]
    (own / "vocab.txt").write_text("".join(f"{symbol}\n" for symbol in vocabulary), "utf-8")
    tokenizer = Tokenizer({symbol: token_id for token_id, symbol in enumerate(vocabulary)})
    pairs = [(recording.mel, tokenizer.encode(recording.text)) for recording in training_set]
    sizes = replace(SIZES, vocabulary=len(vocabulary))
    training = Training(sizes, BY_NAME[plan.variant], pairs, plan.updates, seed=seed)
    tiny_f5.build_vocos(own / "vocos")
    trials, cpu_s = [], 0.0
    for updates in (*(earlier for earlier in EARLIER_UPDATES if earlier < plan.updates), plan.updates):
        started_s = time.process_time()
        training.run(updates)
        cpu_s += time.process_time() - started_s
        training.save(own / "model_last.pt")
        trials += [trial(plan, own, held_out, index) | {"updates": updates} for index in range(len(held_out))]
        print(plan, updates, f"{cpu_s:.0f} s", [each["outcome"] for each in trials[-len(held_out) :]], flush=True)
    model = {
        **asdict(plan),
        "seed": seed,
        "minutes": round(cpu_s / 60, 2),
        "heard_minutes": round(sum(len(recording.mel) for recording in training_set) * 256 / 24_000 / 60, 1),
        "training_loss": round(sum(training.losses[-100:]) / len(training.losses[-100:]), 4),
        "sizes": asdict(sizes),
    }
    return {"model": model, "trials": trials}


def trial(plan: TrainingPlan, folder: Path, held_out: Sequence[Recording], index: int) -> dict[str, Any]:
    """Measure a model with a recording as the engine does; also its loss with the transcript of another recording."""
    import torch

    from engines.checkpoints import f5_vocabulary, inspection
    from engines.checkpoints.f5_variant import BY_NAME, NAMES
    from engines.f5.net.flow import losses
    from engines.f5.net.model import F5Files, F5Model
    from engines.f5.net.symbols import Tokenizer
    from engines.f5.net.variant_probe import measure
    from tests.f5_models import finished

    found = inspection.inspect(folder / "model_last.pt")
    assert found.sizes is not None
    assert found.vocab is not None
    assert found.variant is not None
    assert found.variant.flags is None, found.variant
    model = F5Model(F5Files(found.path, found.tensors, found.sizes, folder / "vocos"), "cpu", torch.float32)
    tokenizer = Tokenizer(f5_vocabulary.read(found.vocab).char_map(found.sizes.vocabulary))
    recording, other = held_out[index], held_out[index - 1]
    _signs, measured = finished(measure(model.backbone, recording.mel, tokenizer.encode(recording.text)))
    decided = None if measured.flags is None else NAMES[measured.flags]
    with torch.inference_mode():
        _signs, other_loss = finished(
            losses(model.backbone, recording.mel, tokenizer.encode(other.text), BY_NAME[plan.variant])
        )
    return {
        "variant": plan.variant,
        "language": plan.language,
        "voice": voice(plan.language),
        "text": recording.text.strip(),
        "seconds": round(len(recording.mel) * 256 / 24_000, 2),
        **{name: float(f"{value:.4g}") for name, value in asdict(measured).items()},
        "with_other_words": float(f"{float(other_loss.mean()):.4g}"),
        "decided": decided,
        "outcome": "undecided" if decided is None else "right" if decided == plan.variant else "wrong",
    }


def measured(updates: int) -> dict[str, Any]:
    """Train and measure all models, two at a time."""
    plans = [TrainingPlan(variant, language, updates) for language in LANGUAGES for variant in ("v0", "v1")]
    with tempfile.TemporaryDirectory() as scratch, multiprocessing.get_context("spawn").Pool(PROCESSES) as processes:
        trained = processes.map(partial(train, folder=Path(scratch)), plans, chunksize=1)
    trials = [each for model in trained for each in model["trials"]]
    counts: dict[int, Counter[str]] = {}
    for each in trials:
        counts.setdefault(each["updates"], Counter(right=0, wrong=0, undecided=0))[each["outcome"]] += 1
    return {
        "outcomes": counts.pop(updates),
        "outcomes_on_the_way": counts,
        "training_minutes": round(sum(each["model"]["minutes"] for each in trained), 1),
        "models": [each["model"] for each in trained],
        "trials": [each for each in trials if each["updates"] == updates],
        "on_the_way": [each for each in trials if each["updates"] != updates],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=UPDATES, help="updates of each training")
    arguments = parser.parse_args()
    prepare()
    parts = {"measured": lambda: measured(arguments.updates)}
    comparison.report("f5-variants", "cpu", parts, list(parts))


if __name__ == "__main__":
    main()
