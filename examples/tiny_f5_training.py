"""Trains tiny F5-TTS models as f5-tts does, with its modules and its loss, and saves files as its trainer does.

For the benchmark of v0 against v1, and for tests. The audio of such a model is not speech yet, but what it learns
depends on the flags that it was trained with.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tiny_f5
from engines.checkpoints.f5_layout import Sizes
from engines.checkpoints.f5_variant import Flags

if TYPE_CHECKING:
    from torch import Tensor

SIZES = replace(tiny_f5.KINDS["f5-v1-base"].tiny, depth=4, heads=4, dim_head=32, text_dim=64)
"""Large enough to learn, small enough to train in minutes; four heads, of which v0 gives one rotary positions."""
_RATE, _WARM_UP = 3e-3, 50
_FRAMES = 700  # of a batch


class Training:
    """A model being trained.

    Attributes:
        updates: How many are done.
        losses: The loss of each update.
    """

    def __init__(
        self, sizes: Sizes, flags: Flags, spoken: Sequence[tuple[Tensor, Tensor]], updates: int, seed: int = 0
    ) -> None:
        """Begin.

        Args:
            spoken: Recordings: mel, float32 [frames, 100], and the numbers of the symbols of its transcript, int64 [t].
            updates: After this many the learning rate is nearly zero.
            seed: Of torch's and Python's global random generators, which the library uses.
        """
        import torch
        from ema_pytorch import EMA

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from f5_tts.model import CFM, DiT

        torch.manual_seed(seed)
        random.seed(seed)
        self.updates, self.losses = 0, list[float]()
        self._model: Any = CFM(DiT(**tiny_f5.backbone_arguments(sizes, flags), dropout=0.0))
        course = {"beta": 0.98, "update_after_step": 20, "update_every": 1}
        self._averaged: Any = EMA(self._model, include_online_model=False, **course)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), _RATE, (0.9, 0.98))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda update: min((update + 1) / _WARM_UP, max(0.02, 1 - update / updates))
        )
        self._batches = _batches(spoken)

    def run(self, updates: int) -> None:
        """Train until this many updates are done in total."""
        import torch

        self._model.train()
        for _ in range(self.updates, updates):
            mels, texts, lengths = self._batches[int(torch.randint(len(self._batches), (1,)))]
            loss, _seen, _foretold = self._model(mels, texts, lens=lengths)
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            self._schedule.step()
            self._averaged.update()
            self.losses.append(float(loss.detach()))
        self.updates = updates

    def averaged(self) -> dict[str, Tensor]:
        """The running average of the weights (EMA), by the library's names."""
        return dict(self._averaged.ema_model.state_dict())

    def save(self, path: Path) -> None:
        """Save as `Trainer.save_checkpoint` does: model, EMA, optimizer, scheduler."""
        import torch

        parts = {
            "model": self._model, "optimizer": self._optimizer, "ema_model": self._averaged,
            "scheduler": self._schedule,
        }  # fmt: skip
        states: dict[str, Any] = {f"{name}_state_dict": part.state_dict() for name, part in parts.items()}
        torch.save(states | {"update": self.updates}, path)


def _batches(spoken: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Those of like length together: mels, texts (filled up with -1, as the library does it) and lengths."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    batches: list[list[tuple[Tensor, Tensor]]] = [[]]
    for one in sorted(spoken, key=lambda one: len(one[0])):
        if batches[-1] and sum(len(mel) for mel, _text in (*batches[-1], one)) > _FRAMES:
            batches.append([])
        batches[-1].append(one)
    return [
        (
            pad_sequence([mel for mel, _text in batch], batch_first=True),
            pad_sequence([text for _mel, text in batch], batch_first=True, padding_value=-1),
            torch.tensor([len(mel) for mel, _text in batch]),
        )
        for batch in batches
    ]
