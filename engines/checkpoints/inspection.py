"""What a model file is, by its header alone: engine, architecture, training, and whether it will load.

Nothing in the file is run, and nothing of its weights is read; a file of 5 GB takes milliseconds.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from engines.checkpoints import f5_variant, f5_vocabulary
from engines.checkpoints.architectures import Architecture, recognise, some
from engines.checkpoints.f5_layout import Sizes
from engines.checkpoints.f5_variant import Variant
from engines.checkpoints.f5_vocabulary import VocabularyFolder
from engines.modelfiles import tensors
from engines.modelfiles.tensors import Entry, TensorFile, UnreadableModelFile
from files import bounded_json
from files.digests import digest

__all__ = ["ENGINES", "Checkpoint", "candidates", "digest", "inspect", "survey"]

ENGINES = ("xtts", "f5")
"""Whose model files are recognised here; a plugin's are known to itself alone."""
SUFFIXES = (".pt", ".pth", ".safetensors")
_COMPANIONS = re.compile(
    r"(speakers_xtts|dvae|mel_stats|training_args|(optimizer|scheduler|scaler|rng_state).*)\.\w+", re.IGNORECASE
)
_ORIGINALS = "XTTS_v2.0_original_model_files"
"""Beside its runs, coqui's recipe for training XTTS keeps what it started from in a folder of this name."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model file.

    Attributes:
        engine: `xtts`, `f5`; None when it is not recognised.
        architecture: For people: `XTTS-v2`, `LoRA adapter for XTTS-v2`, …, or what it is instead.
        container: `safetensors`, `torch`, or "" when it can't be read.
        precision: Type of most weights, torch's name; "" when there are none.
        vocabulary: Rows of the text embedding.
        parameters: Numbers in the tensors that inference needs.
        size_bytes, created: Of the file; created is its mtime, Unix time in seconds.
        step, epoch, validation_loss, training_loss: Where the file says so; losses are finite. The step may come from
            the file's name.
        is_best: Whether its validation loss is the lowest in its folder; told by `survey` alone.
        config, vocab, speakers: Files that belong to it, where they are found. For an adapter, config is its own.
        tensors: What inference needs, by the library's names.
        is_adapter: Whether it holds changes to a base model alone (LoRA).
        averaged: Whether its weights are a running average over the training (EMA); None when it does not tell.
        sizes, variant: Of F5-TTS and E2-TTS.
        warnings: What was taken from elsewhere, in sentences for a manifest.
        loads: Whether it will load, as far as the header tells.
        why_not, cure: If not: why, and what to do; sentences.
    """

    path: Path
    engine: str | None
    architecture: str
    container: str
    precision: str
    vocabulary: int | None
    parameters: int
    size_bytes: int
    created: float
    step: int | None = None
    epoch: int | None = None
    validation_loss: float | None = None
    training_loss: float | None = None
    is_best: bool = False
    config: Path | None = None
    vocab: Path | None = None
    speakers: Path | None = None
    tensors: Mapping[str, Entry] = field(default_factory=dict)
    is_adapter: bool = False
    averaged: bool | None = None
    sizes: Sizes | None = None
    variant: Variant | None = None
    warnings: tuple[str, ...] = ()
    loads: bool = False
    why_not: str = ""
    cure: str = ""


def inspect(path: Path, models: Path | None = None) -> Checkpoint:
    """Say what a file is. A broken or hostile one is a `Checkpoint` that does not load, and says why.

    Args:
        path: The file.
        models: A folder of models: where else to look for a vocabulary that fits, to name it.

    Raises:
        OSError: It can't be opened or read.
    """
    return _described(path, VocabularyFolder(models))


def _described(path: Path, shelf: VocabularyFolder) -> Checkpoint:
    status = path.stat()
    try:
        file = tensors.read(path)
    except UnreadableModelFile as error:
        return _useless(path, status, f"The file can't be used: {error.reason}.", error.cure)
    kind = recognise(file)
    companions = _companions(file, kind, shelf)
    why_not, cure = _fault(kind, companions)
    validation_loss, training_loss = _losses(file.values)
    return Checkpoint(
        path=path,
        engine=kind.engine,
        architecture=kind.name,
        container=file.container,
        precision=_precision(kind.tensors),
        vocabulary=kind.vocabulary,
        parameters=sum(entry.count for entry in kind.tensors.values()),
        size_bytes=status.st_size,
        created=status.st_mtime,
        step=_whole(file.values, _STEPS) if _whole(file.values, _STEPS) is not None else _step_in_name(path),
        epoch=_whole(file.values, ("epoch",)),
        validation_loss=validation_loss,
        training_loss=training_loss,
        config=companions.config,
        vocab=companions.vocab,
        speakers=companions.speakers,
        tensors=kind.tensors,
        is_adapter=kind.is_adapter,
        averaged=kind.averaged,
        sizes=kind.sizes,
        variant=companions.variant,
        warnings=companions.warnings,
        loads=not why_not,
        why_not=why_not,
        cure=cure,
    )


def _useless(path: Path, status: os.stat_result | None, why_not: str, cure: str) -> Checkpoint:
    size, created = (status.st_size, status.st_mtime) if status is not None else (0, 0.0)
    return Checkpoint(path, None, "unreadable", "", "", None, 0, size, created, why_not=why_not, cure=cure)


def candidates(folder: Path) -> list[Path]:
    """Files under a folder that may be models, by their names' endings, in natural order.

    Links to folders are followed. Left out are hidden files and folders, and what lies beside models by custom:
    built-in voices, DVAE, statistics, optimizer states.
    """
    return sorted(_candidates(folder), key=natural)


def _candidates(folder: Path) -> Iterator[Path]:
    """Nothing of a folder that can't be read, or that a circle of links leads to again."""
    left, seen = [folder], set()
    while left:
        folder = left.pop()
        try:
            status, entries = folder.stat(), list(os.scandir(folder))
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if Path(entry.path).is_dir():  # unlike the entry's own, false for a link that leads to itself
                left.append(folder / entry.name)
            elif entry.name.lower().endswith(SUFFIXES) and not _COMPANIONS.fullmatch(entry.name):
                yield folder / entry.name


def natural(path: Path) -> list[tuple[int, str]]:
    """Sorts `checkpoint_900` before `checkpoint_1000`."""
    parts = re.split(r"([0-9]{1,18})", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def survey(folder: Path, models: Path | None = None) -> list[Checkpoint]:
    """Every candidate, inspected; in each folder the one with the lowest validation loss is marked as the best.

    What no engine speaks with is the best only where there is nothing else.

    Args:
        folder: Where to look.
        models: As for `inspect`; else the same folder.
    """
    shelf = VocabularyFolder(models or folder)
    found = [_surveyed(path, shelf) for path in candidates(folder)]
    with_loss: dict[Path, list[Checkpoint]] = {}
    for one in found:
        if one.validation_loss is not None:
            with_loss.setdefault(one.path.parent, []).append(one)
    best = {id(min(those, key=lambda one: (one.engine is None, one.validation_loss))) for those in with_loss.values()}
    return [replace(one, is_best=id(one) in best) for one in found]


def _surveyed(path: Path, shelf: VocabularyFolder) -> Checkpoint:
    try:
        return _described(path, shelf)
    except OSError as error:
        cure = "Mend its permissions, or the disk; the daemon's user must be able to read it."
        return _useless(path, None, f"The file can't be opened: {error.strerror}.", cure)


# --- what lies beside it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Companions:
    """Files that belong to a model, what they add to it, and what is wrong with them."""

    config: Path | None = None
    vocab: Path | None = None
    speakers: Path | None = None
    variant: Variant | None = None
    warnings: tuple[str, ...] = ()
    fault: str = ""
    cure: str = ""


def _companions(file: TensorFile, kind: Architecture, shelf: VocabularyFolder) -> _Companions:
    if kind.sizes is not None and not kind.fault:
        return _companions_of_f5(file, kind.sizes, shelf)
    config, vocab, speakers = (_beside(file.path, name) for name in _names_beside(kind))
    fault, cure = "", ""
    if kind.is_adapter and config is None:
        fault = "adapter_config.json is not beside it."
        cure = "Copy it from the training run; it says how strong the adapter is."
    elif vocab is not None and kind.vocabulary is not None and (fault := _vocabulary_fault(vocab, kind.vocabulary)):
        cure = f"Put the {vocab.name} that it was trained with beside it."
    return _Companions(config, vocab, speakers, fault=fault, cure=cure)


def _companions_of_f5(file: TensorFile, sizes: Sizes, shelf: VocabularyFolder) -> _Companions:
    variant = f5_variant.find(file, sizes)
    vocabulary = f5_vocabulary.find(file.path, sizes.vocabulary, shelf)
    warnings = (vocabulary.warning,) if vocabulary.warning else ()
    fault, cure = vocabulary.fault, vocabulary.cure
    if variant.fault:
        fault, cure = variant.fault, "Correct it, or remove it: then the variant is told in other ways."
    return _Companions(variant.source, vocabulary.path, None, variant, warnings, fault, cure)


def _names_beside(kind: Architecture) -> tuple[str, str, str]:
    """Names of its configuration, vocabulary and built-in voices."""
    if kind.engine == "f5":
        return "", f5_vocabulary.NAME, ""
    if kind.is_adapter:
        return "adapter_config.json", "vocab.json", ""
    return "config.json", "vocab.json", "speakers_xtts.pth"


def _beside(path: Path, name: str) -> Path | None:
    places = (path.with_name(name), path.parent.parent / _ORIGINALS / name) if name else ()
    return next((place for place in places if place.is_file()), None)


def _fault(kind: Architecture, companions: _Companions) -> tuple[str, str]:
    """Why it will not load, and what to do; ("", "") when nothing speaks against it."""
    if kind.fault:
        return kind.fault, kind.cure
    scattered = [name for name, entry in kind.tensors.items() if entry.stride is not None]
    if scattered:
        return f"Some of its tensors do not lie in one piece: {some(scattered)}.", "Save them with .contiguous()."
    if kind.engine is not None and "float" not in (precision := _precision(kind.tensors)):
        return f"Its weights are {precision}: it was made smaller for another program.", _WHOLE_WEIGHTS
    return companions.fault, companions.cure


_WHOLE_WEIGHTS = "Use the one in float32, float16 or bfloat16 that it was made from."


def _vocabulary_fault(vocab: Path, rows: int) -> str:
    try:
        tokens = _tokens(vocab)
    except bounded_json.TooLarge as error:
        return f"{vocab.name} beside it can't be read: {error}."
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return f"{vocab.name} beside it can't be read."
    return f"{vocab.name} beside it has {tokens} tokens, and it was trained with {rows}." if tokens != rows else ""


def _tokens(vocab: Path) -> int:
    """Highest number of a token in a tokenizer's JSON, plus one."""
    said = bounded_json.read(vocab)
    numbers = [*said["model"]["vocab"].values(), *(token["id"] for token in said.get("added_tokens") or ())]
    return int(max(numbers)) + 1


# --- what training says ----------------------------------------------------------------------------------------------

_STEPS = ("step", "global_step", "update")
_VALIDATION = ("val_loss", "eval_loss", "validation_loss", "model_loss", "loss")
_TRAINING = ("train_loss", "training_loss")
_MAX_NUMBER = 100
_STEP_IN_NAME = re.compile(r"(?:best_model|checkpoint|model|ckpt|step)[_-]([0-9]{1,12})", re.IGNORECASE)


def _losses(values: Mapping[str, object]) -> tuple[float | None, float | None]:
    """Validation and training loss. coqui's trainer has both in one dictionary, or only the first."""
    both = values.get("model_loss")
    values = {**values, **both} if isinstance(both, dict) else values
    return _number(values, _VALIDATION), _number(values, _TRAINING)


def _number(values: Mapping[str, object], names: tuple[str, ...]) -> float | None:
    """The first of these that is a finite number, or text that says one: metadata of safetensors are all text."""
    for name in names:
        value = values.get(name)
        try:
            number = math.nan if isinstance(value, bool) else float(_short(value))
        except (ValueError, TypeError, OverflowError):
            continue
        if math.isfinite(number):
            return number
    return None


def _short(value: object) -> float | str:
    """A number, or text that is short enough for one: what is longer takes long to read."""
    if isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _MAX_NUMBER):
        return value
    raise TypeError


def _whole(values: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    number = _number(values, names)
    return int(number) if number is not None and 0 <= number < 1 << 53 else None


def _step_in_name(path: Path) -> int | None:
    found = _STEP_IN_NAME.fullmatch(path.stem)
    return int(found[1]) if found else None


def _precision(entries: Mapping[str, Entry]) -> str:
    numbers: Counter[str] = Counter()
    for entry in entries.values():
        numbers[entry.dtype] += entry.count
    return numbers.most_common(1)[0][0] if numbers else ""
