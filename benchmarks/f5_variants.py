"""Does measuring tell v0 from v1 of F5-TTS? Small models trained here under known flags: `make bench-f5-variants`.

Ten models, five languages as v0 and as v1, each learn one voice of espeak-ng that reads out numbers digit by digit, for
three minutes of one core: the library's modules, its loss, files as its trainer leaves them. Then each is inspected,
loaded and measured as the engine f5 does it where nothing tells v0 from v1, with recordings that it has not heard.
Results go to `benchmarks/results/f5-variants-cpu.json`.

    trials        each model with two recordings: right, wrong or undecided
    on_the_way    the same trials before the training was done
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
ON_THE_WAY = (125, 250, 500, 1000)
LEARNT, DIGITS = 900, (1, 2, 3, 4)  # recordings, and how long they are: of longer ones, minutes teach no words
TRIED = (4, 4)
SPEED = 1.5
ROOM = 1e-3  # of full scale, the noise of a quiet room: espeak-ng's own silence is none
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one model learns.

    Attributes:
        variant: `v0` or `v1`: the flags that it learns under.
    """

    variant: str
    language: str
    updates: int


@dataclass(frozen=True, slots=True)
class Recording:
    """What the engine hears of one: float32 [frames, 100], and its transcript."""

    mel: Tensor
    text: str


def prepare() -> None:
    """As in the worker; a process for each core."""
    comparison.prepare()
    import torch

    torch.set_num_threads(1)


def voice(language: str) -> str:
    """Whose voice the models of a language learn."""
    return random.Random(language).choice(VOICES)


def recordings(language: str, digits: Sequence[int], seed: int) -> list[Recording]:
    """Numbers of so many digits, read out by the voice of a language, as the engine f5 hears them."""
    import torch

    from engines.base import Chunk, Device
    from engines.espeak.engine import Espeak
    from engines.f5.net import reference
    from engines.f5.net.symbols import prompt_text
    from engines.torch.mel import reference_mel

    chance = random.Random(f"{language} {seed}")
    texts = [" ".join(chance.choices("0123456789", k=count)) + "." for count in digits]
    chunks = [Chunk(text, language, 0, speaker=voice(language), settings={"speed": SPEED}) for text in texts]
    espeak = Espeak()
    espeak.load(None, Device("cpu", "float32"))
    noise = torch.Generator().manual_seed(seed)
    made = []
    for place, audio in espeak.render(chunks):
        samples = torch.from_numpy(audio.samples)
        samples = samples + ROOM * torch.randn(samples.shape, generator=noise)
        found = reference.fit(samples.numpy(), audio.rate_hz, texts[place])
        mel = reference_mel(torch.from_numpy(found.samples).unsqueeze(0), audio.rate_hz).mel
        made.append(Recording(mel, prompt_text(found.text)))
    espeak.close()
    return made


def learnt(lesson: Lesson, folder: Path) -> dict[str, Any]:
    """Train a model, and try it on the way and in the end."""
    prepare()
    import tiny_f5
    import tiny_f5_training as school
    from engines.checkpoints.f5_variant import BY_NAME
    from engines.f5.net.symbols import Tokenizer

    own = folder / f"{lesson.variant}-{lesson.language}"
    own.mkdir()
    chance = random.Random(lesson.language)
    heard = recordings(lesson.language, chance.choices(DIGITS, k=LEARNT), 0)
    unheard = recordings(lesson.language, TRIED, 1)
    vocabulary = [" ", *sorted({letter for one in heard for letter in one.text} - {" "})]
    (own / "vocab.txt").write_text("".join(f"{symbol}\n" for symbol in vocabulary), "utf-8")
    tokenizer = Tokenizer({symbol: number for number, symbol in enumerate(vocabulary)})
    spoken = [(one.mel, tokenizer.encode(one.text)) for one in heard]
    sizes = replace(school.SIZES, vocabulary=len(vocabulary))
    training = school.Training(
        sizes, BY_NAME[lesson.variant], spoken, lesson.updates, seed=LANGUAGES.index(lesson.language)
    )
    tiny_f5.build_vocos(own / "vocos")
    trials, taken_s = [], 0.0
    for updates in (*(mark for mark in ON_THE_WAY if mark < lesson.updates), lesson.updates):
        started_s = time.process_time()
        training.run(updates)
        taken_s += time.process_time() - started_s
        training.save(own / "model_last.pt")
        trials += [tried(lesson, own, unheard, place) | {"updates": updates} for place in range(len(unheard))]
        print(lesson, updates, f"{taken_s:.0f} s", [one["outcome"] for one in trials[-len(unheard) :]], flush=True)
    model = {
        **asdict(lesson),
        "seed": LANGUAGES.index(lesson.language),
        "minutes": round(taken_s / 60, 2),
        "heard_minutes": round(sum(len(one.mel) for one in heard) * 256 / 24_000 / 60, 1),
        "training_loss": round(sum(training.losses[-100:]) / len(training.losses[-100:]), 4),
        "sizes": asdict(sizes),
    }
    return {"model": model, "trials": trials}


def tried(lesson: Lesson, folder: Path, unheard: Sequence[Recording], place: int) -> dict[str, Any]:
    """What the engine would decide for a file and a recording; and the loss with the other recording's transcript."""
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
    one, other = unheard[place], unheard[place - 1]
    _signs, measured = finished(measure(model.backbone, one.mel, tokenizer.encode(one.text)))
    decided = None if measured.flags is None else NAMES[measured.flags]
    with torch.inference_mode():
        _signs, misread = finished(
            losses(model.backbone, one.mel, tokenizer.encode(other.text), BY_NAME[lesson.variant])
        )
    return {
        "variant": lesson.variant,
        "language": lesson.language,
        "voice": voice(lesson.language),
        "text": one.text.strip(),
        "seconds": round(len(one.mel) * 256 / 24_000, 2),
        **{name: float(f"{value:.4g}") for name, value in asdict(measured).items()},
        "with_other_words": float(f"{float(misread.mean()):.4g}"),
        "decided": decided,
        "outcome": "undecided" if decided is None else "right" if decided == lesson.variant else "wrong",
    }


def measured(updates: int) -> dict[str, Any]:
    """All models, two at a time, and what came of it."""
    lessons = [Lesson(variant, language, updates) for language in LANGUAGES for variant in ("v0", "v1")]
    with tempfile.TemporaryDirectory() as scratch, multiprocessing.get_context("spawn").Pool(PROCESSES) as processes:
        done = processes.map(partial(learnt, folder=Path(scratch)), lessons, chunksize=1)
    trials = [trial for one in done for trial in one["trials"]]
    counts: dict[int, Counter[str]] = {}
    for one in trials:
        counts.setdefault(one["updates"], Counter(right=0, wrong=0, undecided=0))[one["outcome"]] += 1
    return {
        "outcomes": counts.pop(updates),
        "outcomes_on_the_way": counts,
        "training_minutes": round(sum(one["model"]["minutes"] for one in done), 1),
        "models": [one["model"] for one in done],
        "trials": [one for one in trials if one["updates"] == updates],
        "on_the_way": [one for one in trials if one["updates"] != updates],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=UPDATES, help="of each training")
    arguments = parser.parse_args()
    prepare()
    parts = {"measured": lambda: measured(arguments.updates)}
    comparison.report("f5-variants", "cpu", parts, list(parts))


if __name__ == "__main__":
    main()
