"""The vocabulary of an F5-TTS or E2-TTS model: vocab.txt, one symbol on each line, in the order of the embedding.

A symbol is a character or a pinyin syllable. The embedding has one row more, the first, for the filler token. The file
that belongs to a model is found by its location, and must have as many symbols as the model was trained with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

NAME = "vocab.txt"
LIBRARY_SYMBOLS = 2545
"""In f5-tts's own vocab.txt, the one of the published models and of nearly every fine-tuned one."""

_BYTE_SYMBOLS = 256  # of a model trained with `tokenizer: byte`: it has no vocabulary, and f5-tts can't run it either
_MAX_BYTES = 1 << 20  # f5-tts's own has 11,000
_MAX_LINES = 100_000
_MAX_TOTAL_BYTES = 4 << 20  # of all files that are read in one place
_MAX_FOLDERS, _MAX_FILES = 2_000, 200
_FOLDERS_ABOVE = 3  # from ckpts/NAME/DATE of a training run to its root


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The symbols of a file.

    Attributes:
        path: The file.
        symbols: One for each line. An empty first line is read as the space that an editor has stripped.
    """

    path: Path
    symbols: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of symbols, without empty lines at the end."""
        size = len(self.symbols)
        while size and not self.symbols[size - 1]:
            size -= 1
        return size

    def fits(self, symbols: int) -> bool:
        """Whether a model with this number of symbols may have been trained with it.

        The trainer counts distinct lines, including empty ones. Empty lines at the end may have been added later, so
        any number of them may count.
        """
        return self.size <= symbols <= len(self.symbols) or symbols == len(set(self.symbols))

    def char_map(self, symbols: int) -> dict[str, int]:
        """Token id of each symbol, as `vocab_char_map` of `f5_tts.model.utils.get_tokenizer`.

        The row of the embedding is one more. A duplicate symbol has the id of its last line.

        Args:
            symbols: How many the model was trained with; lines after them are ignored.
        """
        return {symbol: token_id for token_id, symbol in enumerate(self.symbols[:symbols])}


def read(path: Path) -> Vocabulary:
    """Read a vocabulary in UTF-8, with or without byte order mark, with any kind of line ends.

    Raises:
        OSError: The file can't be read.
        ValueError: It is not UTF-8, or has more than 1 MiB or 100,000 lines.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
    if max(data.count(b"\n"), data.count(b"\r")) > _MAX_LINES:
        raise ValueError(f"it has more than {_MAX_LINES:,} lines")
    # No splitlines(): it also splits at form feeds and other characters that are symbols in real vocabularies.
    lines = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return Vocabulary(path, (lines[0] or " ", *lines[1:]))


# --- the one of a model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VocabularyMatch:
    """The vocabulary that a model is used with.

    Attributes:
        path: None if there is none, or if it is f5-tts's own and f5-tts is not installed.
        fault: Why the model can't be used, as a sentence; "" if it can.
        cure: What to do, as a sentence; "" without a fault.
        warning: Which file was used, if it may be the wrong one; else "".
    """

    path: Path | None = None
    fault: str = ""
    cure: str = ""
    warning: str = ""


class VocabularyFolder:
    """All vocabularies under a folder of models; searched once, at the first use of `all`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @cached_property
    def all(self) -> tuple[Vocabulary, ...]:
        """Sorted by path; at most 200 files in 2,000 folders."""
        if self.folder is None:
            return ()
        folders = islice(os.walk(self.folder), _MAX_FOLDERS)
        paths = (Path(folder, name) for folder, _below, names in folders for name in names if _is_candidate(name))
        return tuple(_readable(sorted(islice(paths, _MAX_FILES))))


def find(model: Path, symbols: int, folder: VocabularyFolder) -> VocabularyMatch:
    """Find the vocabulary of a model.

    It is the one next to the model (`MODEL.vocab.txt`, `vocab.txt`, or the only `vocab*.txt` that fits), otherwise
    f5-tts's own if that fits. One found elsewhere is suggested and never used: the vocabularies of two languages may
    have equally many symbols.

    Args:
        model: The model file.
        symbols: How many it was trained with.
        folder: Where else to search for one to suggest.
    """
    nearby = _next_to(model)
    own = [path for path in nearby if path.name.startswith(f"{model.stem}.")]
    own += [path for path in nearby if path.name == NAME]
    # A file with one of the two names was put there on purpose: if it does not fit, no other one is used instead.
    if own:
        return _checked(own[0], model, symbols, folder)
    fitting = [
        vocabulary
        for vocabulary in _readable(nearby)
        if vocabulary.path.name.startswith("vocab") and vocabulary.fits(symbols)
    ]
    if len(fitting) == 1:
        name = _shown(fitting[0].path.name)
        return VocabularyMatch(
            fitting[0].path, warning=f"used {name} next to the model, which has as many symbols as the model"
        )
    if symbols == LIBRARY_SYMBOLS:
        return _of_the_library(model, symbols)
    fault = f"There is no {NAME} next to it, and it was trained with {symbols} symbols."
    return VocabularyMatch(None, fault, _suggestion(model, symbols, folder))


def _checked(own: Path, model: Path, symbols: int, folder: VocabularyFolder) -> VocabularyMatch:
    """The one next to the model, with a fault if it does not fit."""
    name = _shown(own.name)
    try:
        vocabulary = read(own)
    except (OSError, ValueError) as error:
        why = f": {error}" if type(error) is ValueError else ""
        return VocabularyMatch(
            own, f"{name} next to it can't be read{why}.", "It must be UTF-8 text with one symbol on each line."
        )
    if vocabulary.fits(symbols):
        return VocabularyMatch(own)
    fault = f"{name} next to it has {vocabulary.size} symbols, but the model was trained with {symbols}."
    if vocabulary.size == symbols - 1 and " " not in vocabulary.symbols:
        return VocabularyMatch(own, fault, "Its first line, a single space, is missing: add it.")
    return VocabularyMatch(own, fault, _suggestion(model, symbols, folder))


def _of_the_library(model: Path, symbols: int) -> VocabularyMatch:
    """f5-tts's own, unless a training run has left another one that fits."""
    path = library()
    own = next(_readable([path] if path is not None else []), None)
    for other in _of_training(model):
        # With the wrong one of two vocabularies of the same size a model makes gibberish, so the user has to decide.
        if own is not None and other.fits(symbols) and other.symbols != own.symbols:
            place = _shown(os.path.relpath(other.path, model.parent))
            fault = f"There is no {NAME} next to it, and two different ones fit: f5-tts's own and {place}."
            return VocabularyMatch(
                None, fault, f"Copy the one that it was trained with next to it, most likely {place}."
            )
    warning = f"there is no {NAME} next to the model; used f5-tts's own, which has as many symbols as the model"
    return VocabularyMatch(path, warning=warning)


def library() -> Path | None:
    """Path of f5-tts's own vocabulary; None if f5-tts is not installed. Imports nothing of it."""
    package = find_spec("f5_tts")
    places = package.submodule_search_locations if package is not None else None
    files = (Path(place) / "infer/examples" / NAME for place in places or ())
    return next((file for file in files if file.is_file()), None)


# --- elsewhere -------------------------------------------------------------------------------------------------------


def _suggestion(model: Path, symbols: int, folder: VocabularyFolder) -> str:
    """What to do if no vocabulary next to the model fits: one or two sentences."""
    fitting = (vocabulary.path for vocabulary in _everywhere(model, folder) if vocabulary.fits(symbols))
    place = next((_place(path, model, folder) for path in fitting), "")
    if not place and symbols == LIBRARY_SYMBOLS:
        place = "f5-tts's own (infer/examples/vocab.txt)"
    if place:
        return f"{place} has as many: copy it next to the model if the model was trained with it."
    is_bytes = symbols == _BYTE_SYMBOLS
    bytewise = " A model that was trained on bytes (tokenizer: byte) has none and is not supported." * is_bytes
    searched = f"in the folder above, data/*/ of a training run, or models/; f5-tts's own has {LIBRARY_SYMBOLS}"
    return (
        f"Copy the one that it was trained with next to it. None with {symbols} symbols was found {searched}.{bytewise}"
    )


def _everywhere(model: Path, folder: VocabularyFolder) -> Iterator[Vocabulary]:
    yield from _readable(_next_to(model))
    yield from _of_training(model)
    yield from folder.all


def _place(path: Path, model: Path, folder: VocabularyFolder) -> str:
    """For a message: relative to the folder of models if it is in there, else to the model."""
    if folder.folder is not None and path.is_relative_to(folder.folder):
        return _shown(path.relative_to(folder.folder.parent))
    return _shown(os.path.relpath(path, model.parent))


def _of_training(model: Path) -> Iterator[Vocabulary]:
    """Those of a training run: in the folder above, and in ROOT/data/*/ for a model in ROOT/ckpts/*/."""
    folder = Path(os.path.abspath(model.parent))
    paths = [folder.parent / NAME]
    for root in islice(folder.parents, _FOLDERS_ABOVE):
        paths += [root / "data" / name / NAME for name in islice(_names(root / "data"), _MAX_FILES)]
    yield from _readable(paths)


def _next_to(model: Path) -> list[Path]:
    """Files next to a model that may be vocabularies; regular files only, as opening a FIFO would block."""
    paths = (model.parent / name for name in _names(model.parent) if _is_candidate(name))
    return list(islice(filter(Path.is_file, paths), _MAX_FILES))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _is_candidate(name: str) -> bool:
    return "vocab" in name.lower() and name.lower().endswith(".txt") and not name.startswith(".")


def _readable(paths: Sequence[Path]) -> Iterator[Vocabulary]:
    """Those that can be read, up to 4 MiB in all."""
    budget = _MAX_TOTAL_BYTES
    for path in paths:
        try:
            if path.is_file():
                budget -= path.stat().st_size
                if budget < 0:
                    return
                yield read(path)
        except (OSError, ValueError):
            continue


def _shown(path: object) -> str:
    """A path for a message, without control characters."""
    text = str(path)
    return text if text.isprintable() else ascii(text)
