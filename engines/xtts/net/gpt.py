"""The GPT of XTTS: text tokens and conditioning latents in, audio codes and latents out, many chunks at a time.

A GPT-2 (Radford et al. 2019) with learned positions for text and for audio codes. Weights come from coqui-tts; the
layers, the KV cache and the generation loop are ours. The sequence of a chunk is

    gpt_cond_latent (32) | start_text, text, stop_text | start_audio | audio codes ... stop_audio

Prefill runs all up to start_audio, then each decoding step adds an audio code. Continuous batching (Orca, Yu et al.
2022; vLLM): chunks that are done leave the batch, new ones take their rows. The latents for the vocoder are the
normed hidden states of the decoding steps; `Xtts.inference` runs the whole sequence a second time to get them.

Memory of a batch: (`Gpt.row_bytes` + `Gpt.prefill_bytes`) * rows. It grows with the chunks that come: a chunk alone
takes the memory of one row.

Shapes: batch is the rows in a call, seq positions, model_dim = heads * head_dim, vocab = num_audio_tokens.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.torch.linear import Linear
from engines.torch.sampling import Sampler, SamplingParams, uniforms
from engines.xtts.net.kv_cache import Attention, KVCache

CACHE_BLOCK = 128  # positions; the KV cache grows by blocks, and attention on a GPU runs over them: fewer CUDA graphs
PROMPT_LEN = 128  # positions of an ordinary sentence with its conditioning latents; the KV cache grows for a longer one
STEPS_PER_SYNC = 8  # decoding steps on a GPU between two looks for stop tokens, each of which waits for the GPU
OVERTAKING = 8  # rows beyond the largest batch size, for utterances that overtake the others
REFILL_PART = 8  # ask for more chunks when 1/8 of the rows is free: every prefill reads all weights
_FAKE_PREFIX_TOKEN = 1  # `GPT.compute_embeddings` puts it in the place of the prompt, so the penalty applies to it


@dataclass(frozen=True, slots=True)
class Utterance:
    """One sequence to generate.

    Attributes:
        key: Returned with the output.
        text_tokens: int64 [t], from the tokenizer, without start and stop.
        gpt_cond_latent: float32 [1, 32, model_dim]; its keys and values are computed once for the same object.
        sampling: Sampling settings.
        seed: Of this utterance alone, 0 … 2**63 - 1.
    """

    key: tuple[int, int]
    text_tokens: Tensor
    gpt_cond_latent: Tensor
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True, slots=True)
class GptOutput:
    """A generated sequence.

    Attributes:
        key: The utterance's.
        codes: Audio codes, int64 [n], on the CPU; the last is the stop token unless n is `max_gen_mel_tokens`.
        latents: Input of the vocoder, float32 [n, model_dim]: `gpt_latents` of `Xtts.inference`.
    """

    key: tuple[int, int]
    codes: Tensor
    latents: Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """Same as `transformers.models.gpt2.modeling_gpt2.GPT2Block`, its layers by their names there.

    Layer norms are (weight, bias) in float32; `c_attn` gives q, k and v.
    """

    ln_1: tuple[Tensor, Tensor]
    attn_c_attn: Linear
    attn_c_proj: Linear
    ln_2: tuple[Tensor, Tensor]
    mlp_c_fc: Linear
    mlp_c_proj: Linear

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], device: str, dtype: torch.dtype) -> Block:
        """Make a block of the weights of a `GPT2Block`.

        Args:
            state: By the names within the block, for example `attn.c_attn.weight`.
            device: Where the block runs.
            dtype: Precision of the matrices.
        """

        def linear(name: str) -> Linear:
            weight, bias = (state[f"{name}.{part}"].to(device) for part in ("weight", "bias"))
            # GPT-2 has Conv1D layers, whose weight is (in, out); Linear takes (out, in)
            return Linear(weight.t(), bias, dtype, "few")

        def norm(name: str) -> tuple[Tensor, Tensor]:
            weight, bias = (state[f"{name}.{part}"].to(device, torch.float32) for part in ("weight", "bias"))
            return weight, bias

        return cls(
            norm("ln_1"), linear("attn.c_attn"), linear("attn.c_proj"),
            norm("ln_2"), linear("mlp.c_fc"), linear("mlp.c_proj"),
        )  # fmt: skip


class Gpt:
    """Same codes and latents as `TTS.tts.layers.xtts.gpt.GPT`: its `generate`, and its `forward` with `return_latent`;
    checked in tests/unit/engines/xtts/net/test_gpt.py.

    Args:
        gpt: The library's `GPT`, in float32, built without layers: embeddings, norms and `mel_head` are read from it.
        blocks: The layers.

    Attributes:
        dtype: Of the matrices, attention and the KV cache.
        device: Of all weights.
        model_dim, heads, layers, num_audio_tokens: Sizes.
        max_gen_mel_tokens: Most audio codes of a sequence.
        start_audio_token, stop_audio_token: Among the audio codes.
    """

    def __init__(self, gpt: Any, blocks: Sequence[Block]) -> None:
        self._gpt, self._blocks = gpt, blocks
        self.dtype: torch.dtype = blocks[0].attn_c_attn.dtype
        self.device: torch.device = gpt.mel_head.weight.device
        self.model_dim: int = gpt.model_dim
        self.heads: int = gpt.heads
        self.max_gen_mel_tokens: int = gpt.max_gen_mel_tokens
        self.start_audio_token, self.stop_audio_token = int(gpt.start_audio_token), int(gpt.stop_audio_token)
        self.num_audio_tokens: int = gpt.num_audio_tokens
        self._mel_head = Linear(gpt.mel_head.weight, gpt.mel_head.bias, torch.float32, "few")

    @property
    def layers(self) -> int:
        return len(self._blocks)

    # --- memory

    def row_bytes(self, max_seq_len: int) -> int:
        """Memory of one row of a batch in bytes: KV cache, latents, state of sampling.

        Args:
            max_seq_len: Positions of the row, as from `max_seq_len`.
        """
        kv_cache = 2 * self.layers * self.model_dim * max_seq_len * self.dtype.itemsize
        # Per step: a float32 latent, an int64 code, a float32 uniform number. Per row: a bool for each token.
        return kv_cache + self.max_steps * (4 * self.model_dim + 12) + self.num_audio_tokens

    def prefill_bytes(self, max_seq_len: int) -> int:
        """Memory of the activations of one row in bytes while the longest prompt for this many positions is prefilled.

        Args:
            max_seq_len: As for `row_bytes`.
        """
        seq, itemsize = max_seq_len - self.max_steps, self.dtype.itemsize  # with the conditioning latents
        # Gathered keys and values of a layer; scores, softmax and mask of its attention.
        attention = 2 * seq * self.model_dim * itemsize + self.heads * seq * seq * (8 + 2 * itemsize)
        # Residual stream, its sum and its norm in float32; the MLP's hidden layer, 4 * model_dim wide, twice.
        return seq * self.model_dim * (12 + 8 * itemsize) + attention

    def max_seq_len(self, utterance: Utterance) -> int:
        """Positions of the KV cache for a batch with this utterance: whole blocks, at least `ordinary_len`."""
        prompt_len = int(utterance.gpt_cond_latent.shape[1]) + _prompt_len(utterance)
        return max(self.ordinary_len, _round_up(prompt_len + self.max_steps, CACHE_BLOCK))

    @property
    def ordinary_len(self) -> int:
        """Positions for sentences of ordinary length."""
        return _round_up(PROMPT_LEN + self.max_steps, CACHE_BLOCK)

    @property
    def max_steps(self) -> int:
        """Most decoding steps of a row, which may run on past its limit until the next sync."""
        return self.max_gen_mel_tokens + STEPS_PER_SYNC

    # --- parts of the model

    def prompt_embeddings(self, text_tokens: Tensor) -> Tensor:
        """Embed start_text, text, stop_text and start_audio: int64 [t] -> [t + 3, model_dim]."""
        gpt = self._gpt
        tokens = F.pad(
            F.pad(text_tokens.to(self.device), (1, 0), value=gpt.start_text_token), (0, 1), value=gpt.stop_text_token
        )  # (t + 2,)
        text = gpt.text_embedding(tokens) + gpt.text_pos_embedding.emb.weight[: len(tokens)]
        start = gpt.mel_embedding.weight[self.start_audio_token] + gpt.mel_pos_embedding.emb.weight[0]
        return torch.cat([text, start.unsqueeze(0)])  # (t + 2, model_dim), (1, model_dim) -> (t + 3, model_dim)

    def code_embeddings(self, codes: Tensor, positions: Tensor) -> Tensor:
        """Embed audio codes [batch] at their positions counted from start_audio [batch]: [batch, model_dim]."""
        pos_embedding = self._gpt.mel_pos_embedding.emb.weight
        # A row that is done may run on past the last position; what it gives there is thrown away.
        positions = positions.clamp(max=len(pos_embedding) - 1)
        embedded: Tensor = self._gpt.mel_embedding.weight[codes] + pos_embedding[positions]
        return embedded

    def mel_head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states [batch, model_dim] -> latents [batch, model_dim], logits [batch, vocab], both float32."""
        # Two norms in a row: GPT-2's own, then one that XTTS has between the GPT and its heads.
        ln_f, final_norm = self._gpt.gpt.ln_f, self._gpt.final_norm
        latents = _layer_norm(_layer_norm(hidden, (ln_f.weight, ln_f.bias)), (final_norm.weight, final_norm.bias))
        return latents, self._mel_head(latents)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        """Run all blocks, pre-norm as in GPT-2. The residual stream stays float32, the matrices are in `dtype`.

        Args:
            x: float32 [..., model_dim].
            attention: Of the KV cache.

        Returns:
            Before `ln_f`, float32 [..., model_dim].
        """
        for layer, block in enumerate(self._blocks):
            qkv = block.attn_c_attn(_layer_norm(x, block.ln_1).to(self.dtype))
            # (..., 3 * model_dim) -> 3 x (..., model_dim)
            x = x + block.attn_c_proj(attention(layer, *qkv.chunk(3, -1)))
            # gelu_new of transformers is the tanh approximation
            x = x + block.mlp_c_proj(
                F.gelu(block.mlp_c_fc(_layer_norm(x, block.ln_2).to(self.dtype)), approximate="tanh")
            )
        return x

    # --- generation

    @torch.inference_mode()
    def generate(
        self,
        take: Callable[[int], Iterable[Utterance | None]],
        rows: int,
        memory: int = sys.maxsize,
        urgent: Callable[[int], Sequence[Utterance]] = lambda _most: (),
    ) -> Iterator[list[GptOutput]]:
        """Generate the audio codes of utterances with continuous batching, in the order in which they are given.

        Args:
            take: Gives up to the given number of utterances; asked again whenever enough rows are free, until it gives
                none while none is being generated. It may give None in between, as a sign of life.
            rows: The largest batch size, 1 or more.
            memory: Of the batch, in bytes. Fewer than `rows` utterances are generated at a time if more do not fit; a
                single one always is.
            urgent: Gives up to the given number of utterances that overtake all that are being generated. On a CPU,
                where a step takes longer the more rows it has, the others pause meanwhile.

        Yields:
            Sequences that ended in the latest steps; an empty list, as a sign of life, if none did.

        Raises:
            torch.OutOfMemoryError, RuntimeError: not enough memory for this many rows. Outputs yielded before stay
                valid; the other utterances can be generated again with fewer rows.
        """
        batch, waiting, overtaking = _Batch(self, rows, memory), deque[Utterance](), deque[Utterance]()
        while True:
            if batch.active and not batch.is_overtaken and not overtaking:
                overtaking.extend(urgent(OVERTAKING))
            if fitting := 0 if batch.is_overtaken else batch.fitting(overtaking, OVERTAKING):
                batch.overtake([overtaking.popleft() for _ in range(fitting)])
                yield batch.pop_finished()
                continue
            if batch.is_overtaken:
                batch.decode_steps()
                yield batch.pop_finished()
                continue
            if not waiting and not overtaking and (room := batch.room()):
                for utterance in take(room):
                    if utterance is None:
                        yield []
                    else:
                        waiting.append(utterance)
            # One that is too long for the running rows keeps those behind it waiting, so its turn comes.
            if fitting := batch.fitting(waiting):
                batch.admit([waiting.popleft() for _ in range(fitting)])
            elif batch.active:
                batch.decode_steps()
            else:
                return  # nothing overtakes an empty batch
            yield batch.pop_finished()


def _prompt_len(utterance: Utterance) -> int:
    return len(utterance.text_tokens) + 3  # with start_text, stop_text, start_audio


def _similar_lengths(utterances: Iterable[Utterance]) -> list[list[Utterance]]:
    """Groups whose shortest prompt is at least half as long as the longest, to which all are padded.

    Another prefill takes less time than more padding.
    """
    groups: list[list[Utterance]] = []
    for utterance in sorted(utterances, key=_prompt_len, reverse=True):
        if not groups or 2 * _prompt_len(utterance) < _prompt_len(groups[-1][0]):
            groups.append([])
        groups[-1].append(utterance)
    return groups


def _layer_norm(x: Tensor, weight_and_bias: tuple[Tensor, Tensor]) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], *weight_and_bias)


class _Batch:
    """State of the sequences that are being generated. The active rows are always the first `active` ones. While some
    have been overtaken, these are the first, and only the others are decoded.

    The large tensors, KV cache and latents, grow when more or longer utterances are admitted than before.

    Args:
        gpt: The model.
        rows: The largest batch size.
        memory: The largest size in bytes, unless a single row takes more.
    """

    def __init__(self, gpt: Gpt, rows: int, memory: int) -> None:
        self.gpt, self.active = gpt, 0
        self._overtaken = 0  # number of rows
        self._most_rows, self._memory = rows, memory
        rows += OVERTAKING
        device = gpt.device
        self._keys: list[tuple[int, int]] = []
        self._sampler = Sampler(rows, gpt.num_audio_tokens, device)
        self._kv_cache = KVCache(gpt, 0, gpt.ordinary_len)
        self._latents = torch.zeros(0, gpt.max_steps, gpt.model_dim, device=device)
        self._seq_lens = torch.zeros(rows, dtype=torch.long, device=device)  # positions in the KV cache
        self._generated = torch.zeros(rows, dtype=torch.long, device=device)  # audio codes so far
        self._last_token = torch.zeros(rows, dtype=torch.long, device=device)
        self._seen = torch.zeros(rows, gpt.num_audio_tokens, dtype=torch.bool, device=device)
        self._uniforms = torch.zeros(rows, gpt.max_steps, device=device)
        self._codes = torch.zeros(rows, gpt.max_steps, dtype=torch.long, device=device)
        self._row_numbers = torch.arange(rows, device=device)
        self._true = torch.ones((), dtype=torch.bool, device=device)
        self._max_seq_len = 0  # of the rows that are decoded, known without asking the GPU
        self._max_overtaken_len = 0
        self._steps_per_sync = STEPS_PER_SYNC if device.type == "cuda" else 1
        self._graphs = _CudaGraphs() if device.type == "cuda" else None

    # --- memory

    def room(self) -> int:
        """Number of utterances to ask for; 0 while too few rows are free."""
        most = self._rows_of(self._kv_cache.max_seq_len)
        free = most - self.active
        return free if not self.active or free * REFILL_PART >= most else 0

    def fitting(self, waiting: Iterable[Utterance], more_rows: int = 0) -> int:
        """How many of the utterances, from the first on, fit into memory next to the active rows.

        Args:
            more_rows: Beyond the largest batch size.
        """
        max_seq_len, count = self._kv_cache.max_seq_len, 0
        for utterance in waiting:
            max_seq_len = max(max_seq_len, self.gpt.max_seq_len(utterance))
            if self.active + count >= self._rows_of(max_seq_len, more_rows):
                break
            count += 1
        return count

    def _rows_of(self, max_seq_len: int, more_rows: int = 0) -> int:
        """The largest number of rows with this many positions; 1 or more."""
        row_bytes = self.gpt.row_bytes(max_seq_len) + self.gpt.prefill_bytes(max_seq_len)
        return max(1, min(self._most_rows + more_rows, self._memory // row_bytes))

    def _reserve(self, rows: int, max_seq_len: int) -> None:
        """Grow, if there is not enough for this many rows and positions.

        The number of rows doubles at least, so that not every utterance that comes has the others copied.
        """
        cache = self._kv_cache
        if rows <= cache.rows and max_seq_len <= cache.max_seq_len:
            return
        max_seq_len = max(max_seq_len, cache.max_seq_len)
        rows = min(max(1 << (rows - 1).bit_length(), cache.rows), max(rows, self._rows_of(max_seq_len)))
        if self._graphs is not None:
            self._graphs = _CudaGraphs()  # those recorded work on the old tensors
        cache.resize(rows, max_seq_len, self.active, max(self._max_seq_len, self._max_overtaken_len))
        latents = torch.zeros(rows, *self._latents.shape[1:], device=self.gpt.device)
        latents[: self.active] = self._latents[: self.active]
        self._latents = latents

    # --- prefill

    def admit(self, utterances: Sequence[Utterance]) -> None:
        """Prefill utterances, as many as are `fitting`, and sample the first code of each."""
        self._reserve(self.active + len(utterances), max(map(self.gpt.max_seq_len, utterances)))
        for group in _similar_lengths(utterances):
            self._prefill(group)

    @property
    def is_overtaken(self) -> bool:
        """Whether some rows pause."""
        return self._overtaken > 0

    def overtake(self, utterances: Sequence[Utterance]) -> None:
        """Prefill utterances that are more urgent than the active rows. On a CPU, these pause until they are done."""
        if self._graphs is None:
            self._overtaken, self._max_overtaken_len, self._max_seq_len = self.active, self._max_seq_len, 0
        self.admit(utterances)

    def _prefill(self, group: Sequence[Utterance]) -> None:
        """Prefill utterances: their conditioning latents, voice by voice, then their prompts as one padded batch."""
        rows = self._row_numbers[self.active : self.active + len(group)]
        rows_of_voice: dict[int, list[int]] = {}
        for number, utterance in enumerate(group):
            rows_of_voice.setdefault(id(utterance.gpt_cond_latent), []).append(number)
        for numbers in rows_of_voice.values():
            self._kv_cache.prefill_cond(group[numbers[0]].gpt_cond_latent, rows[numbers])
        prompts = [self.gpt.prompt_embeddings(utterance.text_tokens) for utterance in group]
        prompt_lens = torch.tensor([len(prompt) for prompt in prompts], device=self.gpt.device)
        cond_len = group[0].gpt_cond_latent.shape[1]
        # batch x (seq, model_dim) -> (batch, max(seq), model_dim)
        x = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        hidden = self._kv_cache.prefill_text(x, rows, cond_len)
        self._seq_lens[rows] = cond_len + prompt_lens
        self._max_seq_len = max(self._max_seq_len, cond_len + x.shape[1])
        self._start_rows(rows, group)
        # The hidden state at start_audio, the last position of each prompt: (batch, model_dim)
        self._sample(rows, hidden[torch.arange(len(group), device=self.gpt.device), prompt_lens - 1])

    def _start_rows(self, rows: Tensor, group: Sequence[Utterance]) -> None:
        first = self.active
        self._sampler.set_rows(range(first, first + len(group)), [utterance.sampling for utterance in group])
        self._generated[rows] = 0
        # The penalty applies to all input ids, and those of the library's prompt are 1, 1, ..., start_audio.
        self._seen[rows] = False
        self._seen[rows, _FAKE_PREFIX_TOKEN] = True
        self._seen[rows, self.gpt.start_audio_token] = True
        drawn = [uniforms(utterance.seed, self._uniforms.shape[1]) for utterance in group]
        self._uniforms[rows] = torch.stack(drawn).to(self.gpt.device)  # batch x (steps,) -> (batch, steps)
        self._keys += [utterance.key for utterance in group]
        self.active += len(group)

    # --- decode

    def decode_steps(self) -> None:
        """Generate one code of each active row on a CPU, `STEPS_PER_SYNC` on a GPU."""
        for _ in range(self._steps_per_sync):
            self._max_seq_len += 1
            if self._graphs is None:
                self._decode_step(self.active - self._overtaken, self._max_seq_len, self._overtaken)
            else:
                rows = _next_power_of_two(self.active, self._kv_cache.rows)
                attended = min(_round_up(self._max_seq_len, CACHE_BLOCK), self._kv_cache.max_seq_len)
                self._graphs.run((rows, attended), lambda: self._decode_step(rows, attended))  # noqa: B023 - runs at once

    def _decode_step(self, rows: int, attended: int, first: int = 0) -> None:
        """Generate one code of successive rows.

        CUDA graphs capture this: all shapes follow from the arguments, and nothing goes to or from the CPU.
        """
        decoded = slice(first, first + rows)
        seq_lens = self._seq_lens[decoded]
        x = self.gpt.code_embeddings(self._last_token[decoded], self._generated[decoded])
        hidden = self._kv_cache.decode(x, seq_lens, attended, first)
        seq_lens += 1  # a view: changes the state
        self._sample(self._row_numbers[decoded], hidden)

    def _sample(self, rows: Tensor, hidden: Tensor) -> None:
        latents, logits = self.gpt.mel_head(hidden)  # (batch, model_dim), (batch, vocab)
        step = self._generated[rows].clamp(max=self._codes.shape[1] - 1)
        token = self._sampler.sample(rows, logits, self._seen[rows], self._uniforms[rows, step])
        self._latents[rows, step] = latents
        self._codes[rows, step] = token
        self._seen[rows, token] = self._true  # a Python True would be copied from the CPU, which can't be captured
        self._last_token[rows] = token
        self._generated[rows] = step + 1

    # --- finished sequences

    def pop_finished(self) -> list[GptOutput]:
        """Take out the rows that have a stop token or have reached the limit."""
        codes, generated = self._codes[: self.active].cpu(), self._generated[: self.active].tolist()
        finished: list[GptOutput] = []
        # Backwards: a freed row is filled by the last one, which has been looked at already.
        for row in reversed(range(self._overtaken, self.active)):
            of_row = codes[row, : min(generated[row], self.gpt.max_gen_mel_tokens)]
            stops = (of_row == self.gpt.stop_audio_token).nonzero()
            if len(stops) or len(of_row) == self.gpt.max_gen_mel_tokens:
                # Codes after the stop token come from the steps until the next sync.
                count = int(stops[0]) + 1 if len(stops) else len(of_row)
                finished.append(GptOutput(self._keys[row], of_row[:count].clone(), self._latents[row, :count].clone()))
                self._free_row(row)
        if self.active == self._overtaken:  # they go on
            self._overtaken = self._max_overtaken_len = 0
        if finished:
            decoded = self._seq_lens[self._overtaken : self.active]
            self._max_seq_len = int(decoded.max()) if len(decoded) else 0
        return finished

    def _free_row(self, row: int) -> None:
        """Move the last active row into this one, so that the active rows stay the first."""
        last = self.active - 1
        if row != last:
            for state in (
                self._seq_lens, self._generated, self._last_token, self._seen, self._uniforms, self._codes,
                self._latents,
            ):  # fmt: skip
                state[row] = state[last]
            self._sampler.copy_row(last, row)
            self._kv_cache.copy_row(last, row, int(self._seq_lens[last]))
            self._keys[row] = self._keys[last]
        self._keys.pop()
        self.active = last


class _CudaGraphs:
    """CUDA graphs of decoding steps, one per shape: a replay saves the time of launching each kernel."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, ...], Any] = {}
        self._pool: Any = None

    def run(self, shape: tuple[int, ...], step: Callable[[], None]) -> None:
        """Run a step. The first of a shape runs eagerly, as a warm-up; the second is captured; later ones replay it."""
        if shape not in self._graphs:
            step()
            self._graphs[shape] = None
            return
        graph = self._graphs[shape]
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):  # one memory pool: graphs never run at the same time
                step()
            self._pool = graph.pool()
            self._graphs[shape] = graph
        graph.replay()


def _next_power_of_two(active: int, rows: int) -> int:
    """The batch size to run, at most `rows`: a few shapes to capture instead of one for each number of rows."""
    return min(rows, 1 << max(0, active - 1).bit_length())


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
