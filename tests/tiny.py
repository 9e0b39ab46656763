"""Tiny models for tests, built once for all processes of a session. The library can load the XTTS-v2, too.

It is real except for its weights, which are random, and its length: it stops after 16 codes, 0.7 s of audio.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import tiny_f5
from engines.base import Chunk, Device
from engines.checkpoints import base_models, f5_vocabulary, inspection
from engines.checkpoints.f5_variant import V1
from engines.device import runtime
from engines.espeak.engine import Espeak
from engines.f5.net import reference
from tests.model_files import tiny_xtts
from tests.rendered import rendered

LONGEST = 8
COMPANIONS = ("config.json", "vocab.json", "speakers_xtts.pth")
SPEAKERS = ("Ana Florence", "Viktor Eka")
TEXTS = (
    "Good morning to all of you, dear friends of the sea.",
    "No.",
    "This is a sentence of middle length.",
    "It rains, and it will go on raining until the end of the week; take an umbrella with you when you leave.",
    "Who is there?",
    "A short one.",
)
"""Of mixed lengths. Spoken greedily, some stop by themselves and others at the limit."""


def size() -> Any:
    """The sizes in tests, a `tiny_xtts.Size`."""
    return replace(tiny_xtts().TINY, longest=LONGEST, stop_bias=2.0)


def model_folder(factory: pytest.TempPathFactory, name: str = "xtts-v2", seed: int = 1) -> Path:
    """The folder of a model, built at the first call. Tests must not change it.

    Args:
        name: Of the folder in the session's models/; the base model is `xtts-v2`.
        seed: Decides the weights.
    """
    return _shared(factory, name, lambda folder: tiny_xtts().build(folder, size(), seed))


def f5_checkpoint(factory: pytest.TempPathFactory) -> Path:
    """A tiny F5-TTS v1 where the base model belongs, with its vocoder: `MODELS/f5-tts-v1/model_1250000.safetensors`."""

    def build(folder: Path) -> None:
        checkpoint = tiny_f5.build(folder, tiny_f5.KINDS["f5-v1-base"].tiny, "ema")
        checkpoint.with_suffix(".yaml").write_text("variant: v1\n", "utf-8")

    _shared(factory, base_models.BASE_MODELS["vocos"].folder, tiny_f5.build_vocos)
    folder = _shared(factory, base_models.BASE_MODELS["f5"].folder, build)
    return next(folder.glob("*.safetensors"))


F5_SAID = "5 2 1 7 0 9 7 6."
"""What is said in the recording that `f5_taught` has learnt."""
_LESSONS = 300


def f5_taught(factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of an F5-TTS v1, `taught.safetensors`, and the one recording that it has learnt, by
    f5-tts's own training: `bea.wav`. It predicts the recording well, but badly with the flags of v0.
    """
    return _shared(factory, "taught", _teach)


def _teach(folder: Path) -> None:
    folder.mkdir(parents=True)
    espeak = Espeak()
    espeak.load(None, Device("cpu", "float32"))
    (audio,) = rendered(espeak, Chunk(F5_SAID, "pt", 0, speaker="Annie", settings={"speed": 1.5}))
    espeak.close()
    room = 1e-3 * np.random.default_rng(0).standard_normal(audio.samples.size)
    soundfile.write(folder / "bea.wav", audio.samples + room, audio.rate_hz, subtype="FLOAT")

    runtime.quiet()
    runtime.prepare_torchaudio()
    import torch
    from safetensors.torch import save_file

    import tiny_f5_training
    from engines.f5.net.symbols import Tokenizer, prompt_text
    from engines.torch.mel import reference_mel

    samples, rate_hz = soundfile.read(folder / "bea.wav", dtype="float32")
    heard = reference.fit(samples, rate_hz, F5_SAID)
    mel = reference_mel(torch.from_numpy(heard.samples).unsqueeze(0), rate_hz).mel
    vocabulary = f5_vocabulary.read(f5_vocabulary.library() or folder)
    sizes = replace(tiny_f5_training.SIZES, depth=2, conv_layers=1, vocabulary=f5_vocabulary.LIBRARY_SYMBOLS)
    symbols = Tokenizer(vocabulary.char_map(sizes.vocabulary)).encode(prompt_text(heard.text))
    with torch.random.fork_rng():
        training = tiny_f5_training.Training(sizes, V1, [(mel, symbols)], _LESSONS)
        training.run(_LESSONS)
    save_file(training.averaged(), folder / "taught.safetensors")


def _shared(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "models" / name
    with _alone(shared / "models.lock"):
        if not folder.is_dir():
            scratch = shared / f"{name}.unfinished"
            build(scratch)
            folder.parent.mkdir(exist_ok=True)
            scratch.rename(folder)
    return folder


def full_size(folder: Path) -> Path:
    """A model of XTTS-v2's own sizes in a new folder, but for its length: at most five seconds, and most end before."""
    sizes = replace(tiny_xtts().FULL, longest=96, stop_growth=0.1)
    checkpoint: Path = tiny_xtts().build(folder, sizes)
    return checkpoint


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Lets other processes of the session wait."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def beside(checkpoint: Path, folder: Path, *names: str) -> Path:
    """A new folder with files that belong to a model, but not its weights; all others if none is named.

    Returns:
        The path for the weights, `folder/model.pth`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or COMPANIONS:
        shutil.copy(checkpoint.with_name(name), folder)
    return folder / "model.pth"


def changed(checkpoint: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The same model in a new folder with other weights: `change` gets them by name."""
    import torch

    state = torch.load(checkpoint, weights_only=True)["model"]
    change(state)
    path = beside(checkpoint, folder)
    torch.save({"model": state}, path)
    return path


def configuration() -> Any:
    """The library's `XttsConfig` of the tiny model."""
    _prepare()
    return tiny_xtts().configuration(size())


def files(checkpoint: Path) -> Any:
    """A checkpoint and its companion files, as `XttsModel` takes them."""
    _prepare()
    from engines.xtts.net.model import XttsFiles

    found = inspection.inspect(checkpoint)
    assert found.loads, found.why_not
    assert found.vocab is not None
    return XttsFiles(checkpoint, found.tensors, found.config, found.vocab)


def load(checkpoint: Path, precision: str = "float32", device: str = "cpu") -> Any:
    """Our model, as the engine loads it."""
    return load_files(files(checkpoint), precision, device)


def load_files(parts: Any, precision: str = "float32", device: str = "cpu") -> Any:
    """The same, from any `XttsFiles`."""
    _prepare()
    import torch

    from engines.xtts.net.model import XttsModel

    return XttsModel(parts, device, getattr(torch, precision))


def _prepare() -> None:
    """What the engine does before it imports the library."""
    runtime.quiet()
    runtime.prepare_torchaudio()


# --- the library ------------------------------------------------------------------------------------------------------


class Library:
    """The library's model, loaded from a copy, since the library's loader changes the files that it reads.

    Args:
        checkpoint: In a folder with its companions.
        scratch: Where the copy is made; must not exist.
    """

    def __init__(self, checkpoint: Path, scratch: Path) -> None:
        _prepare()
        import torch
        from TTS.tts.configs.xtts_config import XttsConfig
        from TTS.tts.models.xtts import Xtts

        shutil.copytree(checkpoint.parent, scratch)
        config = XttsConfig()
        config.load_json(str(scratch / "config.json"))
        self.model = Xtts(config)
        self.model.load_checkpoint(config, checkpoint_path=str(scratch / checkpoint.name), eval=True)
        self.voices = torch.load(checkpoint.with_name("speakers_xtts.pth"), weights_only=True)

    def say(self, chunk: Chunk) -> Any:
        """`Xtts.inference` with greedy decoding and the chunk's built-in speaker and settings: samples [n]."""
        voice, settings = self.voices[chunk.speaker], {"repetition_penalty": 5.0, **chunk.settings, "do_sample": False}
        result = self.model.inference(
            chunk.text, chunk.language, voice["gpt_cond_latent"], voice["speaker_embedding"], **settings
        )
        return result["wav"]

    def codes_and_latents(self, text: Any, voice: Any, penalty: float) -> tuple[list[int], Any]:
        """The first steps of `Xtts.inference` with greedy decoding: generation, then a second pass for the latents.

        Args:
            text: Tokens, int64 [t].
            voice: Conditioning latents [1, 32, channels].
        """
        import torch

        gpt, tokens = self.model.gpt, text.unsqueeze(0)
        with torch.inference_mode():
            codes = gpt.generate(voice, tokens, do_sample=False, repetition_penalty=penalty)
            length = torch.tensor([codes.shape[1] * gpt.code_stride_len])
            latents = gpt(tokens, torch.tensor([len(text)]), codes, length, cond_latents=voice, return_latent=True)
        return codes[0].tolist(), latents[0]

    def hear(self, recordings: Sequence[Path], **settings: Any) -> tuple[Any, Any]:
        """`Xtts.get_conditioning_latents`, with soundfile to read files, since the library's reader needs FFmpeg."""
        import torch
        import torchaudio

        def load(path: str) -> tuple[Any, int]:
            samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            return torch.from_numpy(samples.T.copy()), rate_hz

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torchaudio, "load", load)
            heard: tuple[Any, Any] = self.model.get_conditioning_latents([str(path) for path in recordings], **settings)
        return heard


def given(utterances: Iterable[Any]) -> Callable[[int], list[Any]]:
    """What `Gpt.generate` takes utterances with, for some that are known beforehand."""
    waiting = iter(utterances)
    return lambda most: list(islice(waiting, most))


def mixed_chunks(texts: Sequence[str] = TEXTS) -> list[Chunk]:
    """Chunks whose length, voice, speed and repetition penalty all differ, for greedy decoding."""
    return [
        Chunk(
            text, "en", seed=number, speaker=SPEAKERS[number % 2],
            settings={
                "do_sample": False, "speed": (1.0, 1.0, 1.3, 0.8)[number % 4],
                "repetition_penalty": (5.0, 1.0, 2.0)[number % 3],
            },
        )
        for number, text in enumerate(texts)
    ]  # fmt: skip
