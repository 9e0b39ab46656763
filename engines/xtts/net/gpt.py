"""XTTS's GPT, decoding many chunks at once: text and voice in, audio codes and latents out.

The weights are the library's; the loop is ours. Each chunk has a row of its own in a static key-value cache that
starts at position 0, so that there is no padding to mask: a row simply has as many keys as it has. Rows that are done
leave, waiting chunks take their place. The vocoder's latents are the normed hidden states of the decoding steps
themselves; the library runs the whole sequence a second time for them.

Memory of a batch: (`Gpt.row_bytes` + `Gpt.reading_bytes`) × rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.torch.linear import Linear
from engines.torch.sampling import Sampler, Sampling, uniforms
from engines.xtts.net.kv_cache import Attend, Cache

CACHE_BLOCK = 128  # positions; on a GPU a step looks at whole blocks, so that few graphs are recorded
LOOK_EVERY_STEPS = 8  # on a GPU: looking at what is done waits for it
REFILL_PART = 8  # waiting chunks come in when an eighth of the rows is free: each coming costs a pass over the weights
_FAKE_PREFIX_TOKEN = 1  # stands for the prompt in the library's input, where the repetition penalty sees it


@dataclass(frozen=True, slots=True)
class Utterance:
    """One chunk to decode.

    Attributes:
        key: Comes back with the result.
        text: int64 [t], the tokenizer's, without start and stop.
        voice: Conditioning latents, float32 [1, 32, channels]; the same object for the same voice.
        sampling: How tokens are chosen.
        seed: Of this chunk's own chance.
    """

    key: tuple[int, int]
    text: Tensor
    voice: Tensor
    sampling: Sampling
    seed: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """A decoded chunk.

    Attributes:
        key: The utterance's.
        codes: int64 [n], on the CPU; the last one is the stop token unless the limit was reached.
        latents: float32 [n, channels], what the vocoder speaks.
    """

    key: tuple[int, int]
    codes: Tensor
    latents: Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """One transformer layer; norms in float32."""

    norm_1: tuple[Tensor, Tensor]
    qkv: Linear
    out: Linear
    norm_2: tuple[Tensor, Tensor]
    up: Linear
    down: Linear

    @classmethod
    def of(cls, layer: Mapping[str, Tensor], device: str, dtype: torch.dtype) -> Block:
        """Make one of a layer of GPT-2's, whose matrices are [in, out].

        Args:
            layer: By the library's names within the layer.
            dtype: Precision of the matrices.
        """

        def linear(name: str) -> Linear:
            weight, bias = (layer[f"{name}.{part}"].to(device) for part in ("weight", "bias"))
            return Linear(weight.t(), bias, dtype, "few")

        def norm(name: str) -> tuple[Tensor, Tensor]:
            weight, bias = (layer[f"{name}.{part}"].to(device, torch.float32) for part in ("weight", "bias"))
            return weight, bias

        return cls(
            norm("ln_1"), linear("attn.c_attn"), linear("attn.c_proj"),
            norm("ln_2"), linear("mlp.c_fc"), linear("mlp.c_proj"),
        )  # fmt: skip


class Gpt:
    """The decoder over the library's `TTS.tts.layers.xtts.gpt.GPT`.

    Args:
        gpt: With its weights in float32, without its layers.
        blocks: The layers.
    """

    def __init__(self, gpt: Any, blocks: Sequence[Block]) -> None:
        self._gpt, self._blocks = gpt, blocks
        self.dtype: torch.dtype = blocks[0].qkv.dtype
        self.device: torch.device = gpt.mel_head.weight.device
        self.channels: int = gpt.model_dim
        self.heads: int = gpt.heads
        self.limit: int = gpt.max_gen_mel_tokens
        self.start, self.stop = int(gpt.start_audio_token), int(gpt.stop_audio_token)
        self.vocabulary: int = gpt.num_audio_tokens
        self._head = Linear(gpt.mel_head.weight, gpt.mel_head.bias, torch.float32, "few")

    @property
    def layers(self) -> int:
        return len(self._blocks)

    def row_bytes(self, utterance: Utterance) -> int:
        """What one row of a batch may come to: keys and values of every layer, latents, and what sampling needs."""
        cache = 2 * self.layers * self.channels * self.longest(utterance) * self.dtype.itemsize
        return cache + (self.limit + LOOK_EVERY_STEPS) * (4 * self.channels + 12) + self.vocabulary

    def reading_bytes(self, utterance: Utterance) -> int:
        """What is calculated for it beside that while its prompt is read: the stream, its sum and its norm, four times
        as wide twice; keys, values and attention of one layer.
        """
        prompt, width = len(utterance.text) + 3, self.dtype.itemsize
        seen = int(utterance.voice.shape[1]) + prompt
        attention = 2 * seen * self.channels * width + self.heads * prompt * seen * (8 + 2 * width)
        return prompt * self.channels * (12 + 8 * width) + attention

    def longest(self, utterance: Utterance) -> int:
        """Positions that an utterance may come to: voice, text with its start and stop, audio codes."""
        return int(utterance.voice.shape[1]) + len(utterance.text) + 3 + self.limit + LOOK_EVERY_STEPS

    # The parts of the model.

    def prompt(self, text: Tensor) -> Tensor:
        """Embeddings of what stands between the voice and the first code: [t + 3, channels]."""
        gpt = self._gpt
        tokens = F.pad(
            F.pad(text.to(self.device), (1, 0), value=gpt.start_text_token), (0, 1), value=gpt.stop_text_token
        )
        words = gpt.text_embedding(tokens) + gpt.text_pos_embedding.emb.weight[: len(tokens)]
        start = gpt.mel_embedding.weight[self.start] + gpt.mel_pos_embedding.emb.weight[0]
        return torch.cat([words, start.unsqueeze(0)])

    def code(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embeddings of audio codes [n] at their positions among the codes, [n, channels]."""
        places = self._gpt.mel_pos_embedding.emb.weight
        embedded: Tensor = self._gpt.mel_embedding.weight[tokens] + places[positions.clamp(max=len(places) - 1)]
        return embedded

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states [n, channels] -> latents and logits [n, vocabulary], both float32."""
        last, final = self._gpt.gpt.ln_f, self._gpt.final_norm
        latents = _norm(_norm(hidden, (last.weight, last.bias)), (final.weight, final.bias))
        return latents, self._head(latents)

    def run(self, x: Tensor, attend: Attend) -> Tensor:
        """All layers. The residual stream stays float32; matrices and attention are in the model's precision.

        Args:
            x: float32 [..., channels].
            attend: Gets the layer's number and queries, keys, values [..., channels]; returns the same shape.
        """
        for number, block in enumerate(self._blocks):
            mixed = block.qkv(_norm(x, block.norm_1).to(self.dtype))
            x = x + block.out(attend(number, *mixed.chunk(3, -1)))
            x = x + block.down(F.gelu(block.up(_norm(x, block.norm_2).to(self.dtype)), approximate="tanh"))
        return x

    @torch.inference_mode()
    def decode(self, utterances: Sequence[Utterance], rows: int) -> Iterator[list[Spoken]]:
        """Decode utterances, at most `rows` at a time, longest texts first.

        Yields:
            Those that got done in the latest steps; none, as a sign of life, if none did.

        Raises:
            torch.OutOfMemoryError, RuntimeError: the memory was too small for so many rows. What was yielded stays
                good; the others can be decoded again with fewer.
        """
        if not utterances:
            return
        waiting = sorted(utterances, key=lambda utterance: len(utterance.text))
        batch = _Batch(self, min(rows, len(utterances)), max(map(self.longest, utterances)))
        while waiting or batch.active:
            free = batch.rows - batch.active
            if waiting and (not batch.active or free * REFILL_PART >= batch.rows):
                batch.admit([waiting.pop() for _ in range(min(free, len(waiting)))])
            else:
                batch.advance()
            yield batch.finished()


def _norm(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], *weights)


class _Batch:
    """The rows that are being decoded: `active` of them, always the first ones."""

    def __init__(self, gpt: Gpt, rows: int, positions: int) -> None:
        self.gpt, self.rows, self.active = gpt, rows, 0
        device = gpt.device
        steps = gpt.limit + LOOK_EVERY_STEPS
        self._keys: list[tuple[int, int]] = []
        self._sampler = Sampler(rows, gpt.vocabulary, device)
        self._cache = Cache(gpt, rows, positions)
        self._length = torch.zeros(rows, dtype=torch.long, device=device)
        self._step = torch.zeros(rows, dtype=torch.long, device=device)
        self._token = torch.zeros(rows, dtype=torch.long, device=device)
        self._seen = torch.zeros(rows, gpt.vocabulary, dtype=torch.bool, device=device)
        self._chance = torch.zeros(rows, steps, device=device)
        self._codes = torch.zeros(rows, steps, dtype=torch.long, device=device)
        self._latents = torch.zeros(rows, steps, gpt.channels, device=device)
        self._all = torch.arange(rows, device=device)
        self._yes = torch.ones((), dtype=torch.bool, device=device)
        self._longest = 0
        self._look_every = LOOK_EVERY_STEPS if device.type == "cuda" else 1
        self._graphs = _Graphs() if device.type == "cuda" else None

    # Coming in.

    def admit(self, utterances: Sequence[Utterance]) -> None:
        """Take chunks into free rows: read their prompts, and speak their first code."""
        by_voice: dict[int, list[Utterance]] = {}
        for utterance in utterances:
            by_voice.setdefault(id(utterance.voice), []).append(utterance)
        for group in by_voice.values():
            self._prefill(group)

    def _prefill(self, group: Sequence[Utterance]) -> None:
        """The voice is read once for the whole group: it comes first, so that no text changes what it is."""
        rows = self._all[self.active : self.active + len(group)]
        voice = group[0].voice.to(self.gpt.device, torch.float32)
        prompts = [self.gpt.prompt(utterance.text) for utterance in group]
        sizes = torch.tensor([len(prompt) for prompt in prompts], device=self.gpt.device)
        voiced = voice.shape[1]
        self._cache.read_voice(voice, rows)
        hidden = self._cache.read_text(torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True), rows, voiced)
        self._length[rows] = voiced + sizes
        self._longest = max(self._longest, voiced + int(sizes.max()))
        self._seat(rows, group)
        self._emit(rows, hidden[torch.arange(len(group), device=self.gpt.device), sizes - 1])

    def _seat(self, rows: Tensor, group: Sequence[Utterance]) -> None:
        first = self.active
        self._sampler.set(range(first, first + len(group)), [utterance.sampling for utterance in group])
        self._step[rows] = 0
        self._seen[rows] = False
        self._seen[rows, _FAKE_PREFIX_TOKEN] = True
        self._seen[rows, self.gpt.start] = True
        chance = [uniforms(utterance.seed, self._chance.shape[1]) for utterance in group]
        self._chance[rows] = torch.stack(chance).to(self.gpt.device)
        self._keys += [utterance.key for utterance in group]
        self.active += len(group)

    # Going on.

    def advance(self) -> None:
        """Some steps of all rows: one on a CPU, several on a GPU."""
        for _ in range(self._look_every):
            self._longest += 1
            if self._graphs is None:
                self._advance(self.active, self._longest)
            else:
                rows = _bucket(self.active, self.rows)
                positions = min(_round_up(self._longest, CACHE_BLOCK), self._cache.positions)
                self._graphs.run((rows, positions), lambda: self._advance(rows, positions))  # noqa: B023 - runs at once

    def _advance(self, rows: int, positions: int) -> None:
        """One step of the first rows; every shape follows from the two numbers, and nothing is read back."""
        which, length = self._all[:rows], self._length[:rows]
        x = self.gpt.code(self._token[:rows], self._step[:rows])
        hidden = self._cache.step(x, length, positions)
        length += 1
        self._emit(which, hidden)

    def _emit(self, rows: Tensor, hidden: Tensor) -> None:
        latents, logits = self.gpt.head(hidden)
        step = self._step[rows].clamp(max=self._codes.shape[1] - 1)
        token = self._sampler.pick(rows, logits, self._seen[rows], self._chance[rows, step])
        self._latents[rows, step] = latents
        self._codes[rows, step] = token
        self._seen[rows, token] = self._yes  # True would come from the computer, which can't be recorded
        self._token[rows] = token
        self._step[rows] = step + 1

    # Going out.

    def finished(self) -> list[Spoken]:
        """Rows that have come to their end leave; others move up, so that the active ones stay the first."""
        codes, steps = self._codes[: self.active].cpu(), self._step[: self.active].tolist()
        done: list[Spoken] = []
        for row in reversed(range(self.active)):
            said = codes[row, : min(steps[row], self.gpt.limit)]
            stops = (said == self.gpt.stop).nonzero()
            if len(stops) or len(said) == self.gpt.limit:
                count = int(stops[0]) + 1 if len(stops) else len(said)
                done.append(Spoken(self._keys[row], said[:count].clone(), self._latents[row, :count].clone()))
                self._leave(row)
        if done:
            self._longest = int(self._length[: self.active].max()) if self.active else 0
        return done

    def _leave(self, row: int) -> None:
        last = self.active - 1
        if row != last:
            for state in (self._length, self._step, self._token, self._seen, self._chance, self._codes, self._latents):
                state[row] = state[last]
            self._sampler.move(last, row)
            self._cache.move(last, row, int(self._length[last]))
            self._keys[row] = self._keys[last]
        self._keys.pop()
        self.active = last


class _Graphs:
    """Steps recorded as CUDA graphs, one for each shape: replaying one costs the time of its kernels alone."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, ...], Any] = {}
        self._pool: Any = None

    def run(self, shape: tuple[int, ...], step: Callable[[], None]) -> None:
        """Do a step of this shape; the first of its kind runs as it is, the second is recorded."""
        if shape not in self._graphs:
            step()
            self._graphs[shape] = None
            return
        graph = self._graphs[shape]
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                step()
            self._pool = graph.pool()
            self._graphs[shape] = graph
        graph.replay()


def _bucket(active: int, rows: int) -> int:
    """The next power of two, at most `rows`: a few shapes instead of many."""
    return min(rows, 1 << max(0, active - 1).bit_length())


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
