"""A card that is too small, for tests on machines without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.base import Device
from engines.device import runtime


class Card:
    """A card whose memory is too small at a place of the program: torch's own error comes from there.

    The processor under torch's other name for it, `cpu:0`, stands for the card, so that the whole engine runs on it.

    Attributes:
        is_in_use: From the choice of the device until the CPU is chosen.
        refused: How often the memory was too small.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_in_use, self.refused, self.patch = False, 0, monkeypatch
        choose = runtime.choose

        def chosen(device: Device) -> runtime.Runtime:
            self.is_in_use = device.name == "cuda"
            if not self.is_in_use:
                return choose(device)
            half = device.precision == "auto" and device.profile == "low_vram"
            return runtime.Runtime("cpu:0", "bfloat16" if half else "float32")

        monkeypatch.setattr(runtime, "choose", chosen)

    def is_too_small_for(self, owner: Any, name: str, when: Callable[..., bool] = lambda *_given: True) -> None:
        """Whoever calls this gets an error, as long as the card is in use.

        Args:
            when: Told what it is called with, whether it does.
        """
        import torch

        real = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            if self.is_in_use and when(*arguments):
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return real(*arguments, **keywords)

        self.patch.setattr(owner, name, call)


def on_card(*, fallback: bool, precision: str = "float32", models: Path | None = None) -> Device:
    """The configuration that asks for it."""
    return Device(name="cuda", precision=precision, fallback_cpu=fallback, models=models)
