"""F5-TTS and E2-TTS models for tests, tiny and full-size, and the library's own code for comparison.

They are real except for their weights, which are random, and the sizes of the tiny ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import tiny_f5
from engines.checkpoints import inspection
from engines.checkpoints.f5_layout import Sizes
from engines.checkpoints.f5_variant import V0, V1, Flags
from engines.device import runtime

if TYPE_CHECKING:
    from torch import Tensor

    from engines.f5.net.model import F5Files, F5Model, Request

T = TypeVar("T")

_OWN = tiny_f5.KINDS["f5-v1-base"].tiny
_OWN_E2 = tiny_f5.KINDS["e2-base"].tiny
KINDS: Mapping[str, tuple[Sizes, Flags]] = MappingProxyType({
    **{name: (kind.tiny, kind.flags) for name, kind in tiny_f5.KINDS.items()},
    "qk-norm": (replace(_OWN, qk_norm=True), V1),
    "long-skip": (replace(_OWN, long_skip_connection=True), V1),
    "stretched-text": (_OWN, replace(V1, average_upsampling=True)),
    "small-vocabulary": (replace(_OWN, vocabulary=60), V1),
    "no-places": (_OWN, replace(V1, pe_attn_head=0)),
    "other-heads": (replace(_OWN, heads=3, dim_head=32), Flags(text_mask_padding=False, pe_attn_head=2)),
    "no-text-convolutions": (replace(_OWN, conv_layers=0), V0),
    "e2-with-text-convolutions": (replace(_OWN_E2, text_dim=32, conv_layers=1), V1),
    "e2-qk-norm": (replace(_OWN_E2, qk_norm=True), V0),
})  # fmt: skip
"""Those that the library has a configuration for, and others that its modules can be built as."""


@dataclass(frozen=True)
class Built:
    """A model on disk.

    Attributes:
        checkpoint: The weights.
        vocoder: The folder of a Vocos.
    """

    checkpoint: Path
    vocoder: Path
    sizes: Sizes
    flags: Flags

    @cached_property
    def files(self) -> F5Files:
        """The files as `F5Model` takes them, from the checkpoint's header."""
        prepare()
        from engines.f5.net.model import F5Files

        found = inspection.inspect(self.checkpoint)
        assert found.sizes == self.sizes
        return F5Files(self.checkpoint, found.tensors, self.sizes, self.vocoder)

    def load(self, precision: str = "float32", device: str = "cpu") -> F5Model:
        """Our model."""
        prepare()
        import torch

        from engines.f5.net.model import F5Model

        return F5Model(self.files, device, getattr(torch, precision))

    @cached_property
    def library(self) -> Library:
        return Library(self)


def build(folder: Path, name: str = "f5-v1-base", container: str = "bare") -> Built:
    """Write a tiny model of one of the `KINDS`, with a vocoder."""
    sizes, flags = KINDS[name]
    checkpoint = tiny_f5.build(folder, sizes, container)
    return Built(checkpoint, tiny_f5.build_vocos(folder / "vocos"), sizes, flags)


def build_full(folder: Path, name: str) -> Built:
    """The same in full size, for a model that the library has a configuration for: up to 1.4 GB."""
    kind = tiny_f5.KINDS[name]
    checkpoint = tiny_f5.build(folder, kind.full)
    return Built(checkpoint, tiny_f5.build_vocos(folder / "vocos", tiny=False), kind.full, kind.flags)


def prepare() -> None:
    """What the engine does before it imports a library."""
    runtime.quiet()
    runtime.prepare_torchaudio()


def finished(work: Generator[object, None, T]) -> tuple[int, T]:
    """Exhaust a generator: how many signs of life it gives, and what it returns."""
    signs = 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            return signs, end.value
        signs += 1


class Library:
    """The library's modules with the same weights."""

    def __init__(self, built: Built) -> None:
        prepare()
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from f5_tts.model import CFM, DiT, UNetT
            from vocos import Vocos

        backbone = DiT if built.sizes.family == "dit" else UNetT
        self.cfm: Any = CFM(backbone(**tiny_f5.backbone_arguments(built.sizes, built.flags)))
        self.cfm.load_state_dict(_state(built.checkpoint))
        self.cfm.eval()
        self.vocos = Vocos.from_hparams(str(built.vocoder / "config.yaml"))
        self.vocos.load_state_dict(torch.load(built.vocoder / "pytorch_model.bin", weights_only=True))
        self.vocos.eval()

    def say(self, request: Request) -> Tensor:
        """The library's `utils_infer.infer_batch_process` for one chunk, with noise from a seed: [samples]."""
        import torch

        solver, mel = request.solver, request.reference.mel
        with torch.inference_mode():
            made, _trajectory = self.cfm.sample(
                mel.unsqueeze(0), request.text.unsqueeze(0), request.duration, seed=request.seed, steps=solver.steps,
                cfg_strength=solver.cfg_strength, sway_sampling_coef=solver.sway_sampling_coef,
            )  # fmt: skip
            sound: Tensor = self.vocos.decode(made[:, len(mel) - 1 :].transpose(1, 2))[0] * request.reference.gain
        return sound


def _state(checkpoint: Path) -> dict[str, Tensor]:
    """Weights as the library's `load_checkpoint` takes them from each container."""
    import torch
    from safetensors.torch import load_file

    if checkpoint.suffix == ".safetensors":
        state = load_file(checkpoint)
    else:
        state = torch.load(checkpoint, weights_only=True)["ema_model_state_dict"]
    return {
        name.removeprefix("ema_model."): tensor for name, tensor in state.items() if name not in ("initted", "step")
    }


SHORT = ((30, 20, 80), (11, 40, 64), (50, 1, 131), (8, 90, 40), (2, 3, 9))
"""Frames of a recording, symbols, frames in all: a text of one symbol is among them, and one longer than its sound."""


def request(
    model_sizes: Sizes,
    number: int,
    solver: Any,
    key: int | None = None,
    lengths: Sequence[tuple[int, int, int]] = SHORT,
) -> Request:
    """A request; its length depends on `number`."""
    prepare()
    import torch

    from engines.f5.net.model import Request
    from engines.torch.mel import ReferenceMel

    heard, characters, frames = lengths[number % len(lengths)]
    generator = torch.Generator().manual_seed(number)
    mel = torch.randn(heard, model_sizes.n_mels, generator=generator) * 2 - 4
    symbols = torch.randint(0, model_sizes.vocabulary, (characters,), generator=generator)
    gain = (1.0, 0.5)[number % 2]
    reference = ReferenceMel(mel, gain, hops=heard - 1)
    return Request(number if key is None else key, reference, symbols, frames, solver, seed=100 + number)
