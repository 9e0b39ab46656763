"""Decoding many chunks at once gives each what the library gives it alone."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import tiny

if TYPE_CHECKING:
    from torch import Tensor

    from engines.torch.sampling import SamplingParams
    from engines.xtts.net.gpt import Gpt, GptOutput, Utterance
    from tests.tiny import Library

NOISE = 1e-5


def sampling(**more: Any) -> SamplingParams:
    """As the library samples by default, but for what is given."""
    from engines.torch.sampling import SamplingParams

    return SamplingParams(**more)


@pytest.fixture(scope="session")
def chosen(model: Any, library: Library) -> list[Utterance]:
    """Utterances of mixed lengths and two voices; each with a seed of its own."""
    from engines.xtts.net.gpt import Utterance

    voices = [library.voices[name]["gpt_cond_latent"] for name in tiny.SPEAKERS]
    return [
        Utterance((number, 0), model.tokenize(text, "en"), voices[number % 2], sampling(), seed=1000 + number)
        for number, text in enumerate(tiny.TEXTS * 2)
    ]


def decoded(gpt: Gpt, utterances: Sequence[Utterance], rows: int) -> dict[tuple[int, int], GptOutput]:
    """What came of them, by key."""
    found = [spoken for group in gpt.generate(tiny.given(utterances), rows) for spoken in group]
    assert sorted(spoken.key for spoken in found) == sorted(utterance.key for utterance in utterances)
    return {spoken.key: spoken for spoken in found}


def codes(spoken: Iterable[GptOutput]) -> dict[tuple[int, int], list[int]]:
    return {one.key: one.codes.tolist() for one in spoken}


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and float((one - other).abs().max()) <= NOISE


@pytest.fixture(scope="session")
def greedy(chosen: list[Utterance]) -> list[Utterance]:
    """The likeliest codes are taken, under penalties that differ."""
    penalties = (5.0, 1.0, 2.0, 0.5, 10.0)
    return [
        replace(one, sampling=sampling(do_sample=False, repetition_penalty=penalties[number % len(penalties)]))
        for number, one in enumerate(chosen)
    ]


@pytest.fixture(scope="session")
def expected(greedy: list[Utterance], library: Library) -> dict[tuple[int, int], tuple[list[int], Tensor]]:
    """Codes and latents of each as the library's own generation and second pass give them."""
    return {
        one.key: library.codes_and_latents(one.text_tokens, one.gpt_cond_latent, one.sampling.repetition_penalty)
        for one in greedy
    }


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 12, 100])
def test_codes_and_latents_are_the_librarys(
    model: Any, greedy: list[Utterance], expected: dict[tuple[int, int], tuple[list[int], Tensor]], rows: int
) -> None:
    """One at a time, a few rows that are filled again and again, all at once: never any difference."""
    lengths = {len(said) for said, _latents in expected.values()}
    assert len(lengths) > 2
    assert tiny.LONGEST in lengths
    for key, spoken in decoded(model.gpt, greedy, rows).items():
        said, latents = expected[key]
        assert spoken.codes.tolist() == said
        assert close(spoken.latents.cpu(), latents)


def test_what_stands_for_the_prompt_counts_as_said(tiny_xtts: Path, tmp_path: Path, greedy: list[Utterance]) -> None:
    """The library has token 1 in the place of voice and text, and so penalises it from the beginning."""

    def prefer(state: dict[str, Tensor]) -> None:
        state["gpt.mel_head.bias"][1] += 5

    checkpoint = tiny.changed(tiny_xtts, tmp_path / "prefers", prefer)
    library = tiny.Library(checkpoint, tmp_path / "copy")
    some = [replace(one, sampling=sampling(do_sample=False, repetition_penalty=2.0)) for one in greedy[:4]]
    expected = {one.key: library.codes_and_latents(one.text_tokens, one.gpt_cond_latent, 2.0)[0] for one in some}
    assert codes(decoded(tiny.load(checkpoint).gpt, some, 4).values()) == expected


def test_the_order_does_not_matter(model: Any, chosen: list[Utterance]) -> None:
    """The same chunk and seed give the same codes in any batch, in any order, in any company."""
    alone = codes(spoken for one in chosen for spoken in decoded(model.gpt, [one], 1).values())
    assert len({tuple(said) for said in alone.values()}) == len(alone)
    shuffle = random.Random(5)
    for rows in (2, 3, 4, 8, 12):
        some = shuffle.sample(chosen, rows if rows == 4 else len(chosen))
        assert codes(decoded(model.gpt, some, rows).values()) == {one.key: alone[one.key] for one in some}


def test_no_company_changes_a_bit_in_bfloat16(tiny_xtts: Path, chosen: list[Utterance]) -> None:
    """There the least difference grows: not codes alone, which could hide it, but latents are equal."""
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16; its products are made in another way there")
    gpt = tiny.load(tiny_xtts, "bfloat16").gpt
    together = decoded(gpt, chosen, len(chosen))
    for rows in (1, 3):
        for key, spoken in decoded(gpt, chosen[:6], rows).items():
            assert spoken.codes.tolist() == together[key].codes.tolist()
            assert torch.equal(spoken.latents, together[key].latents)


def test_another_seed_is_another_chance(model: Any, chosen: list[Utterance]) -> None:
    """Equal but for their seeds, no two are spoken alike; with equal seeds all are."""
    many = [replace(chosen[0], key=(number, 0), seed=number) for number in range(8)]
    assert len({tuple(said) for said in codes(decoded(model.gpt, many, 8).values()).values()}) == 8
    same = [replace(one, seed=3) for one in many]
    assert len({tuple(said) for said in codes(decoded(model.gpt, same, 5).values()).values()}) == 1


def test_rows_differ_in_how_they_sample(model: Any, chosen: list[Utterance]) -> None:
    """Greedy beside sampling, cold beside hot, in one batch as alone."""
    ways = [sampling(do_sample=False), sampling(temperature=0.1), sampling(top_k=1),
            sampling(temperature=2.0, top_p=1.0), sampling(top_p=0.05), sampling(repetition_penalty=1.0)]  # fmt: skip
    mixed = [replace(one, sampling=way) for one, way in zip(chosen, ways, strict=False)]
    alone = codes(spoken for one in mixed for spoken in decoded(model.gpt, [one], 1).values())
    assert codes(decoded(model.gpt, mixed, 6).values()) == alone
    assert codes(decoded(model.gpt, mixed[::-1], 2).values()) == alone


def test_a_chunk_ends_with_the_stop_token_or_at_the_limit(model: Any, chosen: list[Utterance]) -> None:
    """Nothing follows the first stop token; a latent for each code."""
    for spoken in decoded(model.gpt, chosen, 12).values():
        said = spoken.codes.tolist()
        assert model.gpt.stop_audio_token not in said[:-1]
        assert said[-1] == model.gpt.stop_audio_token or len(said) == model.gpt.max_gen_mel_tokens == tiny.LONGEST
        assert spoken.latents.shape == (len(said), model.gpt.model_dim)


def test_what_is_done_comes_before_what_is_not(model: Any, chosen: list[Utterance]) -> None:
    """Chunks are handed out as they end, and there is a sign of life at every step."""
    groups = [[spoken.key for spoken in group] for group in model.gpt.generate(tiny.given(chosen), 3)]
    assert len(groups) >= tiny.LONGEST
    first, last = (next(n for n in order if groups[n]) for order in (range(len(groups)), reversed(range(len(groups)))))
    assert first < last


def test_a_run_that_is_given_up_leaves_nothing_behind(model: Any, chosen: list[Utterance]) -> None:
    """As when memory runs out half way: what is decoded afterwards is what it is without that."""
    before = codes(decoded(model.gpt, chosen, 4).values())
    half = model.gpt.generate(tiny.given(chosen), 4)
    for _ in range(7):
        next(half)
    half.close()
    assert codes(decoded(model.gpt, chosen, 3).values()) == before


def test_nothing_to_decode_is_nothing(model: Any) -> None:
    """No utterances, no step."""
    assert list(model.gpt.generate(tiny.given([]), 4)) == []


def test_torchs_own_chance_is_not_used(model: Any, chosen: list[Utterance]) -> None:
    """Whoever draws numbers beside it gets the ones that they would have had."""
    import torch

    before = torch.random.get_rng_state()
    torch.manual_seed(1)
    one = codes(decoded(model.gpt, chosen[:2], 2).values())
    torch.manual_seed(2)
    assert codes(decoded(model.gpt, chosen[:2], 2).values()) == one
    torch.random.set_rng_state(before)
    decoded(model.gpt, chosen[:2], 2)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- utterances that come while others are generated ------------------------------------------------------------------


def test_those_that_come_later_enter_the_running_batch(model: Any, chosen: list[Utterance]) -> None:
    """One at a time, each as soon as a row is free, to the last; every one as alone. Nobody is asked to give more than
    there is room for, and one who has nothing is asked again.
    """
    alone = codes(spoken for one in chosen for spoken in decoded(model.gpt, [one], 1).values())
    waiting, entered = list(chosen), list[int]()
    found: list[GptOutput] = []

    def take(most: int) -> list[Utterance | None]:
        active = len(chosen) - len(waiting) - len(found)
        assert 1 <= most <= 3 - active
        if not waiting or (len(waiting) % 3 == 0 and len(entered) % 2 and active):
            entered.append(0)
            return []
        entered.append(active)
        return [None, waiting.pop(0)]

    for group in model.gpt.generate(take, 3):
        found += group
    assert codes(found) == alone
    assert sum(active > 0 for active in entered) > len(chosen) / 2
    assert entered[-1] == 0


def test_the_cache_grows_with_them(model: Any, chosen: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for the first one, more when more come, more positions for a long one: nothing that is there is lost."""
    import torch

    long = replace(chosen[0], key=(99, 0), text_tokens=torch.arange(model.max_text_tokens - 1) % 20 + 20)
    some = [chosen[0], long, *chosen[1:]]
    alone = codes(spoken for one in some for spoken in decoded(model.gpt, [one], 1).values())
    sizes = resized(monkeypatch)
    portions = [some[:1], some[1:2], some[2:5], some[5:]]
    found: list[GptOutput] = []
    for group in model.gpt.generate(lambda _most: portions.pop(0) if portions else [], 16):
        found += group
    assert codes(found) == alone
    ordinary, longest = positions(model.gpt, chosen), positions(model.gpt, [long])
    assert sizes == [(1, ordinary, 0), (2, longest, 1), (8, longest, 2), (16, longest, 5)]


def test_a_long_one_waits_until_memory_is_there(
    model: Any, chosen: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the one behind it, so that it is not passed over for ever. What is generated never takes more memory."""
    import torch

    gpt = model.gpt
    long = replace(chosen[0], key=(99, 0), text_tokens=torch.arange(model.max_text_tokens - 1) % 20 + 20)
    some = [*chosen[:3], long, *chosen[3:]]
    alone = codes(spoken for one in some for spoken in decoded(gpt, [one], 1).values())
    sizes = resized(monkeypatch)
    ordinary, longest = positions(gpt, chosen), positions(gpt, [long])
    row, long_row = (gpt.row_bytes(size) + gpt.prefill_bytes(size) for size in (ordinary, longest))
    for memory, rows, long_rows in ((4 * row, 4, 4 * row // long_row), (long_row - 1, (long_row - 1) // row, 1)):
        sizes.clear()
        found = [one for group in gpt.generate(tiny.given(some), 16, memory) for one in group]
        assert codes(found) == alone
        assert len(found) == len(some)
        first, second = sizes
        assert first == (rows, ordinary, 0)
        assert second[:2] == (long_rows, longest)
        assert second[2] < long_rows


def resized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Notes the sizes that the cache has from now on: rows, positions, and how many rows were in use."""
    from engines.xtts.net.kv_cache import KVCache

    sizes: list[tuple[int, int, int]] = []
    resize = KVCache.resize

    def noted(cache: KVCache, rows: int, max_seq_len: int, active: int, seq_len: int) -> None:
        sizes.append((rows, max_seq_len, active))
        resize(cache, rows, max_seq_len, active, seq_len)

    monkeypatch.setattr(KVCache, "resize", noted)
    return sizes


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_of_a_row_is_what_is_said(model: Any, chosen: list[Utterance]) -> None:
    """The formula is for all tensors that live while a batch is decoded: no less, and not much more."""
    from engines.xtts.net.gpt import OVERTAKING

    rows = 8
    gc.collect()
    before = living()
    run = model.gpt.generate(tiny.given(chosen[:rows]), rows)
    taken = max(living() - before for _group, _ in zip(run, range(4), strict=False))
    said = rows * model.gpt.row_bytes(positions(model.gpt, chosen[:rows]))
    one_voice = model.gpt.layers * 2 * 32 * model.gpt.model_dim * 4
    # Rows for utterances that overtake others have state, but no keys, values and latents before they are needed.
    spare = OVERTAKING * (model.gpt.max_steps * 12 + model.gpt.num_audio_tokens)
    assert taken <= said + 2 * one_voice + spare + 4096
    assert taken > said * 0.6


def positions(gpt: Gpt, utterances: Iterable[Utterance]) -> int:
    """Those of each row in a batch of them."""
    return max(map(gpt.max_seq_len, utterances))


def living() -> int:
    """Bytes of all tensors that there are, but for weights that are packed."""
    import torch

    tensors = (one for one in gc.get_objects() if type(one) is torch.Tensor and one.layout is torch.strided)
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def test_a_step_can_be_recorded(tiny_xtts: Path) -> None:
    """A CUDA graph takes nothing from the computer's memory and hands nothing back before it is done: all that a step
    works on is where the model is, here torch's device without memory, which says so without any card.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from engines.xtts.net.gpt import _Batch

    kinds: dict[str, set[str]] = {}  # of each operation, where its tensors are

    class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            tensors = torch.utils._pytree.tree_iter((args, kwargs, made))
            devices = {one.device.type for one in tensors if isinstance(one, torch.Tensor)}
            kinds.setdefault(func.overloadpacket.__name__, set()).update(devices)
            return made

    batch = _Batch(tiny.load(tiny_xtts, device="meta").gpt, 4, 1 << 40)
    batch._reserve(4, 640)
    with torch.inference_mode(), Watched():  # type: ignore[no-untyped-call]
        batch._decode_step(4, 128)
    assert "index_put_" in kinds
    assert set().union(*kinds.values()) == {"meta"}
    from_the_computer, to_it = {"scalar_tensor", "lift_fresh"}, {"_local_scalar_dense", "nonzero"}
    assert not kinds.keys() & (from_the_computer | to_it)


def test_a_gpu_gives_the_same(tiny_xtts: Path, greedy: list[Utterance], expected: Any, chosen: list[Utterance]) -> None:
    """Steps recorded as graphs, several between two looks: the library's codes, and the same for the same seed;
    also when the cache grows, and the graphs are recorded again.
    """
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here that torch can use")
    model = tiny.load(tiny_xtts, device="cuda:0")
    for rows in (1, 5, 12):
        assert codes(decoded(model.gpt, greedy, rows).values()) == {key: said for key, (said, _) in expected.items()}
    alone = codes(spoken for one in chosen for spoken in decoded(model.gpt, [one], 1).values())
    assert codes(decoded(model.gpt, chosen, 5).values()) == alone
    portions = [chosen[:1], chosen[1:3], chosen[3:]]
    grown = model.gpt.generate(lambda _most: portions.pop(0) if portions else [], 16)
    assert codes(spoken for group in grown for spoken in group) == alone
