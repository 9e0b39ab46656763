"""Inspects model files by their header: engine, architecture, training, and whether they can be loaded.

Nothing in a file is executed, and no weights are read; a file of 5 GB takes milliseconds.
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
from engines.checkpoints.architectures import Architecture, first_few, recognise
from engines.checkpoints.f5_layout import Sizes
from engines.checkpoints.f5_variant import Variant
from engines.checkpoints.f5_vocabulary import VocabularyFolder
from engines.modelfiles import tensors
from engines.modelfiles.tensors import Entry, TensorFile, UnreadableModelFile
from files import bounded_json
from files.digests import digest

__all__ = ["ENGINES", "Checkpoint", "candidates", "digest", "inspect", "survey"]

ENGINES = ("xtts", "f5")
"""Engines whose model files are recognised here. Plugins check their own."""
SUFFIXES = (".pt", ".pth", ".safetensors")
_COMPANIONS = re.compile(
    r"(speakers_xtts|dvae|mel_stats|training_args|(optimizer|scheduler|scaler|rng_state).*)\.\w+", re.IGNORECASE
)
_ORIGINALS = "XTTS_v2.0_original_model_files"
"""Folder next to the training runs in which coqui's recipe for XTTS keeps the files of the base model."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model file.

    Attributes:
        path: The file.
        engine: `xtts` or `f5`; None if it is not recognised.
        architecture: For users: `XTTS-v2`, `LoRA adapter for XTTS-v2`, …, or what it is instead.
        container: `safetensors`, `torch`, or "" if it can't be read.
        precision: torch's name for the dtype of most weights; "" without weights.
        vocabulary: Rows of the text embedding.
        parameters: Number of weights that inference needs.
        size_bytes, created: Of the file; created is its mtime, Unix time in seconds.
        step, epoch, validation_loss, training_loss: As saved in the file, else None; losses are finite. The step may be
            from the name of the file.
        is_best: Whether its validation loss is the lowest in its folder; only set by `survey`.
        config, vocab, speakers: Files that belong to it, if they were found. For an adapter, config is its own.
        tensors: Those that inference needs, by the library's names.
        is_adapter: Whether it is a LoRA adapter.
        averaged: Whether its weights are an average over the training (EMA); None if the file does not show it.
        sizes, variant: Of F5-TTS and E2-TTS.
        warnings: Sentences for the manifest about files that were not found next to it.
        loads: Whether it can be loaded, judged by the header.
        why_not, cure: Why it can't be loaded, and what to do, as sentences; else "".
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
    """Inspect a file. For a broken or hostile one, the result has `loads=False` and the reason.

    Args:
        path: The file.
        models: A models folder, to search for a vocabulary that fits if there is none next to the file.

    Raises:
        OSError: It can't be opened or read.
    """
    return _inspected(path, VocabularyFolder(models))


def _inspected(path: Path, vocabularies: VocabularyFolder) -> Checkpoint:
    status = path.stat()
    try:
        file = tensors.read(path)
    except UnreadableModelFile as error:
        return _unreadable(path, status, f"The file can't be used: {error.reason}.", error.cure)
    kind = recognise(file)
    companions = _companions(file, kind, vocabularies)
    why_not, cure = _fault(kind, companions)
    validation_loss, training_loss = _losses(file.values)
    step = _whole(file.values, _STEPS)
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
        step=step if step is not None else _step_in_name(path),
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


def _unreadable(path: Path, status: os.stat_result | None, why_not: str, cure: str) -> Checkpoint:
    size, created = (status.st_size, status.st_mtime) if status is not None else (0, 0.0)
    return Checkpoint(path, None, "unreadable", "", "", None, 0, size, created, why_not=why_not, cure=cure)


def candidates(folder: Path) -> list[Path]:
    """Files under a folder that may be models by their suffix, in natural order.

    Links to folders are followed. Hidden files and folders are left out, and files that usually accompany a model:
    built-in voices, DVAE, statistics, optimizer states.
    """
    return sorted(_candidates(folder), key=natural)


def _candidates(folder: Path) -> Iterator[Path]:
    """Skips folders that can't be read, and those that links lead to a second time."""
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
            if Path(entry.path).is_dir():  # entry.is_dir() raises for a link to itself
                left.append(folder / entry.name)
            elif entry.name.lower().endswith(SUFFIXES) and not _COMPANIONS.fullmatch(entry.name):
                yield folder / entry.name


def natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts `checkpoint_900` before `checkpoint_1000`."""
    parts = re.split(r"([0-9]{1,18})", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def survey(folder: Path, models: Path | None = None) -> list[Checkpoint]:
    """Inspect all candidates. In each folder, the one with the lowest validation loss has `is_best` set.

    Files that are not recognised are considered only in folders without any recognised file.

    Args:
        folder: The folder to search.
        models: As for `inspect`; the same folder by default.
    """
    vocabularies = VocabularyFolder(models or folder)
    found = [_surveyed(path, vocabularies) for path in candidates(folder)]
    with_loss: dict[Path, list[Checkpoint]] = {}
    for checkpoint in found:
        if checkpoint.validation_loss is not None:
            with_loss.setdefault(checkpoint.path.parent, []).append(checkpoint)
    best = {id(min(group, key=lambda c: (c.engine is None, c.validation_loss))) for group in with_loss.values()}
    return [replace(checkpoint, is_best=id(checkpoint) in best) for checkpoint in found]


def _surveyed(path: Path, vocabularies: VocabularyFolder) -> Checkpoint:
    try:
        return _inspected(path, vocabularies)
    except OSError as error:
        cure = "Fix its permissions or the disk; the daemon's user must be able to read it."
        return _unreadable(path, None, f"The file can't be opened: {error.strerror}.", cure)


# --- companion files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Companions:
    """Files next to a model that belong to it, the variant and warnings found with them, and their fault."""

    config: Path | None = None
    vocab: Path | None = None
    speakers: Path | None = None
    variant: Variant | None = None
    warnings: tuple[str, ...] = ()
    fault: str = ""
    cure: str = ""


def _companions(file: TensorFile, kind: Architecture, vocabularies: VocabularyFolder) -> _Companions:
    if kind.sizes is not None and not kind.fault:
        return _companions_of_f5(file, kind.sizes, vocabularies)
    config, vocab, speakers = (_companion(file.path, name) for name in _companion_names(kind))
    fault, cure = "", ""
    if kind.is_adapter and config is None:
        fault = "There is no adapter_config.json next to it."
        cure = "Copy it from the training run; it has the scale of the adapter."
    elif vocab is not None and kind.vocabulary is not None and (fault := _vocabulary_fault(vocab, kind.vocabulary)):
        cure = f"Copy the {vocab.name} that it was trained with next to it."
    return _Companions(config, vocab, speakers, fault=fault, cure=cure)


def _companions_of_f5(file: TensorFile, sizes: Sizes, vocabularies: VocabularyFolder) -> _Companions:
    variant = f5_variant.find(file, sizes)
    vocabulary = f5_vocabulary.find(file.path, sizes.vocabulary, vocabularies)
    warnings = (vocabulary.warning,) if vocabulary.warning else ()
    fault, cure = vocabulary.fault, vocabulary.cure
    if variant.fault:
        fault, cure = variant.fault, "Correct it, or remove it to have the variant determined in other ways."
    return _Companions(variant.source, vocabulary.path, None, variant, warnings, fault, cure)


def _companion_names(kind: Architecture) -> tuple[str, str, str]:
    """Names of its configuration, vocabulary and built-in voices; "" for those that it does not have."""
    if kind.engine == "f5":
        return "", f5_vocabulary.NAME, ""
    if kind.is_adapter:
        return "adapter_config.json", "vocab.json", ""
    return "config.json", "vocab.json", "speakers_xtts.pth"


def _companion(model: Path, name: str) -> Path | None:
    paths = (model.with_name(name), model.parent.parent / _ORIGINALS / name) if name else ()
    return next((path for path in paths if path.is_file()), None)


def _fault(kind: Architecture, companions: _Companions) -> tuple[str, str]:
    """Why it can't be loaded, and what to do; ("", "") if it can."""
    if kind.fault:
        return kind.fault, kind.cure
    strided = [name for name, entry in kind.tensors.items() if entry.stride is not None]
    if strided:
        return f"Some of its tensors are not contiguous: {first_few(strided)}.", "Save them with .contiguous()."
    if kind.engine is not None and "float" not in (precision := _precision(kind.tensors)):
        return f"Its weights are {precision}: it was quantised for another program.", _UNQUANTISED
    return companions.fault, companions.cure


_UNQUANTISED = "Use the original, in float32, float16 or bfloat16."


def _vocabulary_fault(vocab: Path, rows: int) -> str:
    try:
        tokens = _tokens(vocab)
    except bounded_json.TooLarge as error:
        return f"{vocab.name} next to it can't be read: {error}."
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return f"{vocab.name} next to it can't be read."
    if tokens == rows:
        return ""
    return f"{vocab.name} next to it has {tokens} tokens, but the model was trained with {rows}."


def _tokens(vocab: Path) -> int:
    """Number of tokens in a tokenizer's JSON: the highest token id, plus one."""
    tokenizer = bounded_json.read(vocab)
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer.get("added_tokens") or ())]
    return int(max(ids)) + 1


# --- values that trainers save ---------------------------------------------------------------------------------------

_STEPS = ("step", "global_step", "update")
_VALIDATION = ("val_loss", "eval_loss", "validation_loss", "model_loss", "loss")
_TRAINING = ("train_loss", "training_loss")
_MAX_DIGITS = 100  # of a number in text; a longer one takes long to parse
_STEP_IN_NAME = re.compile(r"(?:best_model|checkpoint|model|ckpt|step)[_-]([0-9]{1,12})", re.IGNORECASE)


def _losses(values: Mapping[str, object]) -> tuple[float | None, float | None]:
    """Validation and training loss. coqui's trainer saves both in one dictionary, or only the first."""
    both = values.get("model_loss")
    values = {**values, **both} if isinstance(both, dict) else values
    return _number(values, _VALIDATION), _number(values, _TRAINING)


def _number(values: Mapping[str, object], names: tuple[str, ...]) -> float | None:
    """The first of these values that is a finite number, also as text, as in the metadata of safetensors."""
    for name in names:
        value = values.get(name)
        if isinstance(value, bool) or (isinstance(value, str) and len(value) > _MAX_DIGITS):
            continue
        try:
            number = float(value) if isinstance(value, int | float | str) else math.nan
        except (ValueError, OverflowError):
            continue
        if math.isfinite(number):
            return number
    return None


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
