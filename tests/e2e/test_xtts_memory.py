"""What XTTS-v2 takes of memory: while it loads, from model to model, for a batch, and over many jobs.

Each measurement is made by a process of its own; `tests/process_memory.py` says what is counted.
"""

from __future__ import annotations

import logging
from pathlib import Path
from statistics import median

import pytest

from engines.checkpoints import inspection
from tests import tiny
from tests.model_files import tiny_xtts as builder
from tests.resident import MB, measured

pytestmark = pytest.mark.long

log = logging.getLogger(__name__)


def weights(checkpoint: Path) -> int:
    """Bytes of all that inference needs, as the file has it."""
    return sum(entry.size for entry in inspection.inspect(checkpoint).tensors.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_loading_takes_hardly_more_than_the_weights(full_xtts: Path, tiny_xtts: Path, precision: str) -> None:
    """Under 1.15 times the file's weights while loading, and after the first sentence, which puts the matrices into
    another order. All of it is given back.
    """
    size = weights(full_xtts)
    taken = measured("loading", "xtts", tiny_xtts, full_xtts, precision, "auto")
    log.info("parts of the weights: %s", {name: round(value / size, 3) for name, value in taken.items()})
    assert size > 1_800 * 10**6
    assert taken["loading"] < 1.15 * size
    assert taken["speaking"] < 1.5 * size
    assert taken["kept"] < 1.15 * size
    assert taken["closed"] < 0.05 * size


def test_another_model_is_loaded_after_the_first_is_gone(full_xtts: Path, tiny_xtts: Path, tmp_path: Path) -> None:
    """Of two models in turn there is never more than one in memory."""
    other = tiny.beside(full_xtts, tmp_path / "other")
    other.hardlink_to(full_xtts)
    turns = measured("switching", "xtts", tiny_xtts, full_xtts, other, full_xtts)["turns"]
    log.info("parts of the weights: %s", [round(turn / weights(full_xtts), 3) for turn in turns])
    assert all(turn < 1.5 * weights(full_xtts) for turn in turns)


@pytest.mark.parametrize("rows", [4, 16])
def test_a_batch_takes_what_the_formula_says(full_xtts: Path, rows: int) -> None:
    """`Gpt.row_bytes` and `Gpt.prefill_bytes` for each row."""
    taken, predicted = measured("batch", "xtts", full_xtts, rows).values()
    log.info("%d rows: %.0f MB, and %.0f MB by the formula", rows, taken / MB, predicted / MB)
    assert 0.7 * predicted < taken < 1.1 * predicted + 32 * MB


def test_many_jobs_leave_nothing_behind(tmp_path: Path) -> None:
    """Two hundred that all differ. Kernels are kept for lengths that came, up to a bound, which is reached in the first
    half.
    """
    after = measured("jobs", "xtts", builder().build(tmp_path / "model"), 200)["after"]
    early, late = median(after[100:130]), median(after[170:200])
    log.info("MB after every tenth job: %s", [round(one / MB) for one in after[::10]])
    assert late - early < 48 * MB
    assert late - after[0] < 256 * MB
