"""F5-TTS and E2-TTS say what the library says, whatever the architecture, alone and in any batch."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engines.checkpoints import inspection
from engines.errors import RequestRefused
from tests import f5_models
from tests.f5_models import Built, build, request

if TYPE_CHECKING:
    from torch import Tensor

    from engines.f5.net.model import F5Model, Request

ALIKE = 1e-3  # of full scale
EXACT = 1e-4  # what another order of summing may change
PLENTY = 1 << 40


def solver(steps: int = 7, cfg_strength: float = 2.0, sway: float | None = -1.0) -> Any:
    f5_models.prepare()
    from engines.f5.net.flow import SolverSettings

    return SolverSettings(steps, cfg_strength, sway)


SOLVERS = ((7, 2.0, -1.0), (16, 0.0, None), (16, 2.0, None), (32, 0.0, -1.0), (5, 1.5, 0.4))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An F5-TTS v1."""
    return build(tmp_path_factory.mktemp("f5"))


@pytest.fixture(scope="module")
def model(built: Built) -> F5Model:
    return built.load()


def spoken(model: F5Model, requests: Sequence[Request], built: Built, budget_bytes: int = PLENTY) -> dict[int, Tensor]:
    return dict(one for one in model.render(requests, built.flags, budget_bytes) if one is not None)


def apart(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.mark.parametrize("name", f5_models.KINDS)
def test_every_architecture_sounds_as_the_librarys(name: str, tmp_path: Path) -> None:
    """One by one and all in one batch, with and without guidance and sway, with few steps and many."""
    built = build(tmp_path, name)
    model = built.load()
    for number, way in enumerate(SOLVERS if name in ("f5-base", "e2-base") else SOLVERS[:2]):
        requests = [request(built.sizes, one + number, solver(*way), key=one) for one in range(3)]
        together = spoken(model, requests, built)
        for one in requests:
            expected = built.library.say(one)
            assert expected.abs().max() > 0.01
            assert apart(together[one.key], expected) < ALIKE
            assert apart(spoken(model, [one], built)[one.key], expected) < ALIKE


def test_a_batch_is_what_its_requests_are_alone(model: F5Model, built: Built) -> None:
    """However they are mixed; what was given comes back under its key, in the order given."""
    requests = [request(built.sizes, number, solver(), key=10 - number) for number in range(5)]
    together = [one for one in model.render(requests, built.flags, PLENTY) if one is not None]
    assert [key for key, _sound in together] == [10, 9, 8, 7, 6]
    for one, (_key, sound) in zip(requests, together, strict=True):
        assert apart(sound, spoken(model, [one], built)[one.key]) < EXACT


def test_solver_settings_may_be_mixed(model: F5Model, built: Built) -> None:
    """Each request goes its own way."""
    ways = [solver(), solver(cfg_strength=0.0), solver(cfg_strength=0.0), solver(sway=None), solver(steps=3)]
    requests = [request(built.sizes, number, way) for number, way in enumerate(ways)]
    sounds = spoken(model, requests, built)
    for one in requests:
        assert apart(sounds[one.key], spoken(model, [one], built)[one.key]) < EXACT


def test_without_guidance_nothing_is_computed_for_it(
    model: F5Model, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half as many rows go through the layers."""
    rows = []
    layers = model.backbone._transformer

    def counting(x: Tensor, *others: Any) -> Tensor:
        rows.append(len(x))
        return layers(x, *others)

    monkeypatch.setattr(model.backbone, "_transformer", _Counting(layers, counting))
    one = request(built.sizes, 0, solver())
    spoken(model, [one], built)
    spoken(model, [replace(one, solver=solver(cfg_strength=0.0))], built)
    assert rows == [2 * one.duration] * 7 + [one.duration] * 7


class _Counting:
    def __init__(self, layers: Any, call: Any) -> None:
        self.time_tokens, self.time_conditioning = layers.time_tokens, layers.time_conditioning
        self._call = call

    def __call__(self, *given: Any) -> Any:
        return self._call(*given)


def test_chance_belongs_to_each_request(model: F5Model, built: Built) -> None:
    """The same seed gives the same sound, another one another; nobody else's chance is touched."""
    import torch

    one = request(built.sizes, 0, solver())
    before = torch.random.get_rng_state()
    first, again = (spoken(model, [one], built)[0] for _ in range(2))
    other = spoken(model, [replace(one, seed=1)], built)[0]
    assert torch.equal(first, again)
    assert apart(first, other) > 0.01
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_sound_is_as_long_as_asked_for(model: F5Model, built: Built) -> None:
    """In frames of 256 samples behind the recording; never shorter than the recording and the text and one more."""
    one = request(built.sizes, 0, solver(steps=1))
    for frames, expected in ((80, 80), (10, 31), (0, 31)):
        assert len(spoken(model, [replace(one, duration=frames)], built)[0]) == (expected - 30) * model.hop
    long = request(built.sizes, 3, solver(steps=1))
    assert len(spoken(model, [long], built)[3]) == (len(long.text) + 1 - 8) * model.hop
    assert model.rate_hz == 24_000


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg_strength", [2.0, 0.0])
@pytest.mark.parametrize("name", ["f5-v1-base", "e2-base"])
def test_company_that_nobody_hears_changes_nothing(
    name: str, cfg_strength: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What small batches are filled up with, so that a GPU can replay how it was done for others of their shape."""
    from engines.f5.net.graphs import padded_for_graphs

    built = build(tmp_path, name)
    model = built.load()
    requests = [request(built.sizes, number, solver(cfg_strength=cfg_strength)) for number in range(3)]
    expected = spoken(model, requests, built)
    monkeypatch.setattr(
        model.backbone, "padded_for_graphs", lambda batch, use_cfg: padded_for_graphs(batch, 2 if use_cfg else 1)
    )
    for key, sound in spoken(model, requests, built).items():
        assert apart(sound, expected[key]) < EXACT


@pytest.mark.parametrize("passes", [1, 2])
def test_small_batches_have_few_shapes(passes: int) -> None:
    """A power of two of sequences and a multiple of 128 frames; what was given comes first, large ones stay."""
    f5_models.prepare()
    import torch

    from engines.f5.net.batch import Conditions
    from engines.f5.net.graphs import MAX_FRAMES, padded_for_graphs

    nothing = torch.empty(0, 100), torch.empty(0, dtype=torch.long)
    shapes = set()
    for lengths in ([one] for one in range(1, 2900)), ([700 + one, 900, one + 1] for one in range(1000)):
        for batch in ([Conditions(*nothing, length) for length in each] for each in lengths):
            whole = padded_for_graphs(batch, passes)
            assert whole[: len(batch)] == batch
            frames = sum(one.duration for one in whole)
            assert min(one.duration for one in whole) > 0
            assert (len(whole), frames % 128) == ({1: 2, 3: 4}[len(batch)], 0)
            assert frames * passes <= MAX_FRAMES
            shapes.add((len(whole), frames))
    assert len(shapes) < 45
    large = [Conditions(*nothing, 1000)] * 9
    assert padded_for_graphs(large, passes) == large


@pytest.mark.parametrize("name", ["f5-base", "f5-v1-base", "e2-base"])
def test_a_gpu_gives_the_same(name: str, tmp_path: Path) -> None:
    """As the library on a processor in float32; in half precision nearly so, and the same however a batch is done: as
    it is, recorded, replayed for itself, and replayed for another of its shape.
    """
    f5_models.prepare()
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here that torch can use")
    built = build(tmp_path, name)
    exact, half = (built.load(precision, "cuda:0") for precision in ("float32", "bfloat16"))
    batches = [[request(built.sizes, number, solver(), key=number) for number in each] for each in ((0, 1), (2, 3))]
    shapes = set()
    for batch in (batches[0], *batches, batches[1]):
        whole = half.backbone.padded_for_graphs([one.conditions for one in batch], use_cfg=True)
        shapes.add((len(whole), sum(one.duration for one in whole)))
        made = spoken(half, batch, built)
        for one in batch:
            expected = built.library.say(one)
            assert apart(spoken(exact, [one], built)[one.key], expected) < ALIKE
            assert 0 < float((made[one.key] - expected).norm() / expected.norm()) < 0.1
    assert len(shapes) == 1


# --- batches and memory ----------------------------------------------------------------------------------------------


class Watched:
    """A model's batches, seen from outside."""

    def __init__(self, model: F5Model, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.most = 99
        own = model.backbone.prepare

        def prepare(batch: Sequence[Any], *others: Any, **named: Any) -> Any:
            self.sizes.append(len(batch))
            if len(batch) > self.most:
                raise MemoryError
            return own(batch, *others, **named)

        patch.setattr(model.backbone, "prepare", prepare)


@pytest.fixture
def watched(model: F5Model, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(model, monkeypatch)


def test_batches_are_what_fits(model: F5Model, built: Built, watched: Watched) -> None:
    """Into the memory given, by what each request says it needs; one alone is tried in any case."""
    requests = [request(built.sizes, 0, solver(steps=1), key=number) for number in range(5)]
    need = model.request_bytes(requests[0])
    assert len(spoken(model, requests, built, 3 * need)) == 5
    assert len(spoken(model, requests, built, need // 2)) == 5
    assert watched.sizes == [3, 2, 1, 1, 1, 1, 1]


def test_batches_are_no_larger_than_is_worth_it(model: F5Model, built: Built, watched: Watched) -> None:
    """A device that is busy gains nothing from more, and the first sound would only be later."""
    requests = [request(built.sizes, 0, solver(steps=1), key=number) for number in range(30)]
    spoken(model, requests, built)
    assert watched.sizes == [12, 12, 6]  # of 80 frames, twice: 2048 rows


def test_a_batch_is_filled_with_those_behind_that_fit(model: F5Model, built: Built) -> None:
    """Of any duration, but with the same solver settings; the first one is in it in any case."""
    way, other = solver(steps=1), solver(steps=2)
    some = [(way, 500), (way, 600), (other, 80), (way, 400), (way, 200), (way, 100)]
    requests = [replace(request(built.sizes, 0, each, key), duration=frames) for key, (each, frames) in enumerate(some)]
    batches = [[one.key for one in batch] for batch in model._batches(requests, PLENTY)]
    assert batches == [[0, 3, 5], [1, 4], [2]]  # up to 1024 frames, twice
    assert sorted(spoken(model, requests, built)) == [0, 1, 2, 3, 4, 5]
    large = [replace(one, duration=3000) for one in requests[:2]]
    assert [len(batch) for batch in model._batches(large, PLENTY)] == [1, 1]


def test_where_memory_runs_out_batches_are_halved(model: F5Model, built: Built, watched: Watched) -> None:
    """Until they fit; every request is spoken once."""
    watched.most = 2
    requests = [request(built.sizes, number, solver(steps=1), key=number) for number in range(5)]
    made = [one for one in model.render(requests, built.flags, PLENTY) if one is not None]
    assert [key for key, _sound in made] == [0, 1, 2, 3, 4]
    assert watched.sizes == [5, 2, 3, 1, 2]


def test_what_does_not_fit_alone_is_said(model: F5Model, built: Built, watched: Watched) -> None:
    watched.most = 0
    with pytest.raises(MemoryError):
        spoken(model, [request(built.sizes, 0, solver())], built)


def test_other_errors_are_not_tried_again(model: F5Model, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **named: Any) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(model.backbone, "velocity", broken)
    with pytest.raises(ValueError, match="broken"):
        spoken(model, [request(built.sizes, number, solver()) for number in range(3)], built)


@pytest.mark.parametrize("name", ["f5-v1-base", "e2-base"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_request_takes_no_more_memory_than_it_says(name: str, precision: str, tmp_path: Path) -> None:
    """And not much less: what is asked of torch's allocator while it is rendered, at its peak."""
    built = build(tmp_path, name)
    model = built.load(precision)
    for frames in (150, 1500):
        one = replace(request(built.sizes, 0, solver(steps=2)), duration=frames)
        spoken(model, [one], built)
        peak = peak_bytes(lambda one=one: spoken(model, [one], built))
        assert 0.5 < peak / model.request_bytes(one) < 1.0, frames


def peak_bytes(work: Any) -> int:
    """The most that torch's allocator has out at a time."""
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    out = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            out += event.nbytes()
            peak = max(peak, out)
    return peak


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["ema", "training"])
def test_containers_do_not_matter(container: str, model: F5Model, built: Built, tmp_path: Path) -> None:
    """The same weights, the same sound; from a training file the averaged ones are taken."""
    other = build(tmp_path, container=container)
    one = request(built.sizes, 0, solver())
    assert apart(spoken(other.load(), [one], built)[0], spoken(model, [one], built)[0]) == 0


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("precision", ["float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_a_file_of_any_precision_speaks_as_its_values_in_float32(
    precision: str, suffix: str, built: Built, tmp_path: Path
) -> None:
    """Each that `inspect` says loads."""
    import torch
    from safetensors.torch import load_file, save_file

    own = {
        name: tensor.to(getattr(torch, precision)) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(built.checkpoint).items()
    }
    stored, exact = tmp_path / f"stored{suffix}", tmp_path / "exact.safetensors"
    (save_file if suffix == ".safetensors" else torch.save)(own, stored)
    save_file({name: tensor.float() for name, tensor in own.items()}, exact)
    shutil.copy(built.checkpoint.with_name("vocab.txt"), tmp_path)
    found = inspection.inspect(stored)
    assert (found.loads, found.precision) == (True, precision)
    one = request(built.sizes, 0, solver(steps=3))
    sounds = [spoken(replace(built, checkpoint=path).load(), [one], built)[0] for path in (stored, exact)]
    assert sounds[1].abs().max() > 0.01
    assert torch.equal(*sounds)


def test_the_file_is_only_read(tmp_path: Path) -> None:
    """It may be read-only, and be gone once the model is loaded."""
    built = build(tmp_path)
    built.checkpoint.chmod(0o400)
    before = built.checkpoint.read_bytes()
    model = built.load()
    one = request(built.sizes, 0, solver())
    first = spoken(model, [one], built)[0]
    assert built.checkpoint.read_bytes() == before
    built.checkpoint.chmod(0o600)
    with built.checkpoint.open("r+b") as file:
        file.truncate()
    assert apart(spoken(model, [replace(one, solver=solver(steps=6))], built)[0], first) > 0


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    built = build(tmp_path)
    state = load_file(built.checkpoint)
    state["transformer.proj_out.bias"][3] = torch.nan
    save_file(state, built.checkpoint)
    with pytest.raises(RequestRefused, match=r"not numbers .* transformer\.proj_out\.bias"):
        built.load()


def test_half_precision_is_near(model: F5Model, built: Built) -> None:
    """bfloat16 matrices, on any processor: the error is a small part of the sound."""
    half = built.load("bfloat16")
    for one in (request(built.sizes, number, solver()) for number in range(3)):
        exact, near = (spoken(each, [one], built)[one.key] for each in (model, half))
        assert 0 < float((near - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_with_either_products_the_sound_is_the_same(
    model: F5Model, built: Built, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AVX-512 they are oneDNN's, and else torch's own."""
    import torch

    one = request(built.sizes, 0, solver())
    expected = spoken(model, [one], built)[0]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert apart(spoken(built.load(), [one], built)[0], expected) < EXACT


def test_where_onednn_is_missing_the_sound_is_the_same(
    model: F5Model, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: torch's own products, convolutions and attention."""
    from engines.f5.net import attention
    from engines.torch import convolution, linear

    one = request(built.sizes, 0, solver())
    expected = spoken(model, [one], built)[0]
    for module in (convolution, attention, linear):
        monkeypatch.setattr(module, "is_packed", lambda _device, _dtype, _rows: False)
    assert apart(spoken(built.load(), [one], built)[0], expected) < EXACT
