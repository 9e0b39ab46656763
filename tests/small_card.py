"""A GPU with too little memory, for tests on machines without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.base import Device
from engines.device import runtime


class Card:
    """A GPU whose memory is too small at one place of the program, which raises torch's own error.

    The CPU acts as the GPU, under torch's other name for it, `cpu:0`, so that the whole engine runs on it.

    Attributes:
        is_in_use: From the choice of the device until the CPU is chosen.
        refused: How often the error was raised.
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
        """Let calls of this function fail while the GPU is in use.

        Args:
            when: Decides from the arguments whether a call fails.
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
    """A configuration that uses it."""
    return Device(name="cuda", precision=precision, fallback_cpu=fallback, models=models)
