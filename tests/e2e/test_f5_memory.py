"""What F5-TTS takes of memory on a processor: while it loads, under each profile, from model to model, for a batch, and
over many jobs; and what `doctor` says of it.

Each measurement is made by a process of its own; `tests/process_memory.py` says what is counted.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

import tiny_f5
from engines.checkpoints import base_models, inspection
from tests.resident import MB, measured
from watcher.doctor.torch_findings import NEEDS

pytestmark = pytest.mark.long

NAME = "F5-TTS Base"
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def full_f5() -> Iterator[Path]:
    """An F5-TTS v1 Base of 1.35 GB and a whole vocoder, `MODELS/f5-tts-v1/model.safetensors`; removed in the end."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        tiny_f5.build_vocos(models / base_models.BASE_MODELS["vocos"].folder, tiny=False)
        yield settled(tiny_f5.build(models / base_models.BASE_MODELS["f5"].folder, tiny_f5.KINDS["f5-v1-base"].full))


def settled(checkpoint: Path) -> Path:
    """Nothing has to be measured to tell its variant."""
    checkpoint.with_suffix(".yaml").write_text("variant: v1\n", "utf-8")
    return checkpoint


def weights(checkpoint: Path) -> int:
    """Bytes of network and vocoder, as the files have them."""
    vocoder = checkpoint.parents[1] / base_models.BASE_MODELS["vocos"].folder
    network = sum(entry.size for entry in inspection.inspect(checkpoint).tensors.values())
    return network + sum(path.stat().st_size for path in vocoder.iterdir())


@pytest.mark.parametrize(
    ("precision", "profile"), [("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "low_vram")]
)
def test_a_model_takes_what_doctor_says(full_f5: Path, tiny_f5: Path, precision: str, profile: str) -> None:
    """Hardly more than the weights while loading and for a sentence, and in half precision half of them afterwards.
    All of them are given back.
    """
    size, need = weights(full_f5), NEEDS[NAME]["cpu", precision[-2:]]
    taken = measured("loading", "f5", tiny_f5, full_f5, precision, profile, models=full_f5.parents[1])
    log.info("parts of the weights: %s", {name: round(value / size, 3) for name, value in taken.items()})
    assert size > 1_400 * 10**6
    assert 0.95 * need.weights < taken["loading"] < min(1.05 * size, 1.05 * need.weights)
    assert taken["speaking"] < need.peak
    assert taken["kept"] < (1.05 if precision == "float32" else 0.6) * size
    assert taken["closed"] < 0.05 * size


def test_another_model_is_loaded_after_the_first_is_gone(full_f5: Path, tiny_f5: Path) -> None:
    """Of two models in turn there is never more than one in memory."""
    other = full_f5.with_name("other.safetensors")
    os.link(full_f5, other)
    models = full_f5.parents[1]
    turns = measured("switching", "f5", tiny_f5, full_f5, settled(other), full_f5, models=models)["turns"]
    log.info("parts of the weights: %s", [round(turn / weights(full_f5), 3) for turn in turns])
    assert all(turn < 1.3 * weights(full_f5) for turn in turns)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_batch_takes_what_the_formula_says(full_f5: Path, rows: int) -> None:
    """`Model.request_bytes` for each chunk, and what the C library keeps between tensors."""
    taken, predicted = measured("batch", "f5", full_f5, rows, models=full_f5.parents[1]).values()
    log.info("%d chunks: %.0f MB, and %.0f MB by the formula", rows, taken / MB, predicted / MB)
    assert 0.8 * predicted < taken < 1.1 * predicted + 48 * MB


def test_many_jobs_leave_nothing_behind(tiny_f5: Path) -> None:
    """Two hundred that all differ."""
    after = measured("jobs", "f5", tiny_f5, 200, models=tiny_f5.parents[1])["after"]
    early, late = median(after[100:130]), median(after[170:200])
    log.info("MB after every tenth job: %s", [round(one / MB) for one in after[::10]])
    assert late - early < 16 * MB
    assert late - after[0] < 128 * MB
