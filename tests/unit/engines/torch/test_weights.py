"""Weights come from the file as they are: converted, checked, never random, and the file stays untouched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engines.errors import RequestRefused
from engines.modelfiles import tensors
from tests.model_files import safetensors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def values() -> dict[str, Tensor]:
    """Of the model in `empty`."""
    import torch

    generator = torch.Generator().manual_seed(3)
    numbers = {
        name: torch.randn(shape, generator=generator)
        for name, shape in (("0.weight", (5, 3)), ("0.bias", (5,)), ("1.weight", (7, 4)))
    }
    norm = {"2.weight": torch.ones(4), "2.bias": torch.zeros(4), "2.running_mean": torch.ones(4) * 0.5,
            "2.running_var": torch.ones(4) * 2, "2.num_batches_tracked": torch.tensor(9)}  # fmt: skip
    return numbers | norm


def empty() -> Module:
    """A linear layer, an embedding, and a norm with a counter, built without values."""
    import torch

    from engines.torch.weights import SkipInit

    with SkipInit():
        return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Embedding(7, 4), torch.nn.BatchNorm1d(4))


def save(path: Path, state: Mapping[str, Tensor]) -> Path:
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(dict(state), path)
    return path


def assigned(path: Path, dtype: str = "float32") -> dict[str, Tensor]:
    """The values of the model after it was given a file's."""
    import torch

    from engines.torch.weights import assign

    model = empty()
    assign(model, path, tensors.read(path).entries, lambda _name: getattr(torch, dtype))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    return dict(model.state_dict())


def equal(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    import torch

    return state.keys() == expected.keys() and all(
        torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype for name, tensor in state.items()
    )


# --- what comes of a file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_values_are_the_files(tmp_path: Path, name: str, stored: str, wanted: str) -> None:
    """In whatever precision they are stored, in the one that is wanted; whole numbers stay what they are."""
    import torch

    def to(state: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
        there = getattr(torch, dtype)
        return {name: one.to(there) if one.is_floating_point() else one for name, one in state.items()}

    kept = to(values(), stored)
    assert equal(assigned(save(tmp_path / name, kept), wanted), to(kept, wanted))


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_the_file_stays_as_it_is(tmp_path: Path, name: str) -> None:
    """Its bytes and times too, even when the weights are changed afterwards, and where writing is forbidden."""
    path = save(tmp_path / name, values())
    path.chmod(0o400)
    data, status = path.read_bytes(), path.stat()
    for tensor in assigned(path).values():
        tensor.add_(1)
    assert path.read_bytes() == data
    assert (path.stat().st_mtime_ns, path.stat().st_ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
    assert os.listdir(tmp_path) == [name]


def test_a_file_that_is_replaced_or_removed_is_still_there(tmp_path: Path) -> None:
    """A better one may come by rename while the weights are in use."""
    path = save(tmp_path / "model.pth", values())
    state = assigned(path)
    other = save(tmp_path / "other.pth", {name: one * 0 for name, one in values().items()})
    other.replace(path)
    assert equal(state, values())
    path.unlink()
    assert equal(state, values())


def test_tensors_may_begin_anywhere(tmp_path: Path) -> None:
    """Safetensors does not promise that a number starts where a processor likes it."""
    import torch

    from engines.torch.weights import mapped

    numbers = torch.arange(6.0).reshape(2, 3)
    odd = {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}
    header = {"odd": odd, "x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [3, 27]}}
    for padding in range(8):
        blank = {**header, "__metadata__": {"padding": " " * padding}}
        path = safetensors(tmp_path / f"{padding}.safetensors", blank, bytes(3) + numbers.numpy().tobytes())
        assert torch.equal(dict(mapped(path, tensors.read(path).entries))["x"], numbers)


def test_special_shapes(tmp_path: Path) -> None:
    """A number alone, none at all, and more than a page of them."""
    import torch

    from engines.torch.weights import mapped

    special = {
        "one": torch.tensor(7.5),
        "none": torch.empty(0, 4),
        "many": torch.arange(10_000.0),
        "flag": torch.ones(3) > 0,
    }
    for path in (save(tmp_path / "a.pth", special), save(tmp_path / "a.safetensors", special)):
        assert equal(dict(mapped(path, tensors.read(path).entries)), special)


def test_what_the_model_does_not_have_is_not_read(tmp_path: Path) -> None:
    """A trainer's file may hold NaN in its optimizer; the model does not care."""
    import torch

    more = {"optimizer.exp_avg": torch.full((4,), torch.nan)}
    assert equal(assigned(save(tmp_path / "model.pth", values() | more)), values())


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(path: Path) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        assigned(path)
    assert path.name in caught.value.message
    assert caught.value.hint != RequestRefused.hint
    return caught.value


def test_missing_tensors_are_counted_and_named(tmp_path: Path) -> None:
    """The first few of them; not a wall."""
    some = {name: one for name, one in values().items() if name.startswith("1")}
    message = refused(save(tmp_path / "model.pth", some)).message
    assert "7 of 8 tensors" in message
    assert "0.weight" in message
    assert message.endswith("and 4 more")


def test_a_wrong_shape_is_named_with_the_right_one(tmp_path: Path) -> None:
    """Both, and the cure."""
    import torch

    error = refused(save(tmp_path / "model.pth", values() | {"1.weight": torch.ones(8, 4)}))
    assert "1.weight is [8, 4] and should be [7, 4]" in error.message
    assert "config.json" in error.hint


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: str, dtype: str, place: str) -> None:
    """One is enough, wherever it stands."""
    import torch

    state = values()
    state["1.weight"] = state["1.weight"].to(getattr(torch, dtype))
    state["1.weight"].view(-1)[0 if place == "first" else -1] = float(value)
    error = refused(save(tmp_path / "model.pth", state))
    assert "1.weight" in error.message
    assert "not numbers" in error.message


def test_infinities_do_not_cancel_out(tmp_path: Path) -> None:
    """One of each sign in a tensor, whose sum is no number either."""
    import torch

    state = values() | {"0.bias": torch.tensor([torch.inf, -torch.inf, 1.0, 1.0, 1.0])}
    refused(save(tmp_path / "model.pth", state))


def test_large_values_are_numbers(tmp_path: Path) -> None:
    """Even where their sum is larger than float32 can hold."""
    import torch

    state = values() | {"0.bias": torch.full((5,), 3e38)}
    assert equal(assigned(save(tmp_path / "model.pth", state)), state)


def test_values_too_large_for_the_precision_are_refused(tmp_path: Path) -> None:
    """A number in float64 may be none in float32."""
    import torch

    refused(save(tmp_path / "model.pth", values() | {"0.bias": torch.full((5,), 1e300, dtype=torch.float64)}))


# --- building without values ------------------------------------------------------------------------------------------


def test_nothing_is_drawn_while_a_model_is_built() -> None:
    """No random number is used up, and the values are those of untouched memory, not of an initialisation."""
    import torch

    from engines.torch.weights import SkipInit

    before = torch.random.get_rng_state()
    with SkipInit():
        layers: list[Any] = [
            torch.nn.Linear(9, 9),
            torch.nn.Embedding(9, 9),
            torch.nn.Conv1d(3, 3, 3),
            torch.nn.GRU(3, 3),
        ]
        torch.nn.init.xavier_normal_(layers[0].weight)
        torch.nn.init.trunc_normal_(tensor=layers[0].weight)
        layers[0].weight.data.normal_()
        layers[0].weight.data.uniform_(-1, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_computed_while_a_model_is_built_is_right() -> None:
    """Filter banks and windows need numbers; those come as ever."""
    import torch

    from engines.torch.weights import SkipInit

    with SkipInit():
        window, sums = torch.hann_window(8), torch.arange(5.0).cumsum(0)
    assert torch.equal(window, torch.hann_window(8))
    assert torch.equal(sums, torch.tensor([0.0, 1.0, 3.0, 6.0, 10.0]))


def test_afterwards_everything_is_as_before() -> None:
    """Also when building fails."""
    import torch

    from engines.torch.weights import SkipInit

    with pytest.raises(ZeroDivisionError), SkipInit():
        raise ZeroDivisionError
    weight = torch.zeros(100)
    torch.nn.init.normal_(weight)
    assert weight.std() > 0.5
