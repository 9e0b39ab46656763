"""The vocabulary of an F5-TTS or E2-TTS model: vocab.txt, a symbol on each line, in the order of the embedding's rows.

A line is a symbol as it stands: a letter, a syllable of pinyin, a space. The embedding has one row more, the first, for
filling up. Which file belongs to a model is told by where it lies; that it fits, by its number of symbols.
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
"""In the library's own vocab.txt: that of the published models and of nearly every fine-tuned one."""

_BYTES = 256  # symbols of a model that has no vocabulary: f5-tts trains such ones, and speaks with none
_LARGEST = 1 << 20
_MAX_LINES = 100_000
_MAX_BYTES = 4 << 20  # of all that are looked at in one place; the library's own has 11,000
_MAX_FOLDERS, _MAX_FILES = 2_000, 200
_FOLDERS_ABOVE = 3  # from ckpts/NAME/DATE of a training run to its root


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A file of symbols.

    Attributes:
        symbols: In order; a final newline ends the last one. A first line without anything on it is the space that
            some editor took away.
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
        """Whether a model of so many symbols may have been trained with it.

        The trainer counts different lines, empty ones too; where editors have added some at the end, all may be meant.
        """
        return self.size <= symbols <= len(self.symbols) or symbols == len(set(self.symbols))

    def numbers(self, symbols: int) -> dict[str, int]:
        """Number of each symbol for a model of so many; its row in the embedding is one more.

        Whatever is not in it counts as 0, the space.
        """
        return {symbol: number for number, symbol in enumerate(self.symbols[:symbols])}


def read(path: Path) -> Vocabulary:
    """Read a vocabulary; with or without byte order mark, lines ended in any way.

    Raises:
        OSError: It can't be read.
        ValueError: It is no text in UTF-8, or larger than any vocabulary.
    """
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST:,} bytes")
    if max(data.count(b"\n"), data.count(b"\r")) > _MAX_LINES:
        raise ValueError(f"it has more than {_MAX_LINES:,} lines")
    lines = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return Vocabulary(path, (lines[0] or " ", *lines[1:]))


# --- which one belongs to a model ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VocabularyMatch:
    """Which vocabulary a model speaks with.

    Attributes:
        path: None when there is none, or when it is the library's and that is not installed.
        fault, cure: Why it can't speak, and what to do; sentences, or "".
        warning: Where the file was taken from, when that is not sure to be right.
    """

    path: Path | None = None
    fault: str = ""
    cure: str = ""
    warning: str = ""


class VocabularyFolder:
    """Every vocabulary that lies under a folder of models; looked for once, when somebody asks."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @cached_property
    def all(self) -> tuple[Vocabulary, ...]:
        """In the order of their paths; a bounded number of them."""
        if self.folder is None:
            return ()
        folders = islice(os.walk(self.folder), _MAX_FOLDERS)
        paths = (Path(folder, name) for folder, _below, names in folders for name in names if _is_one(name))
        return tuple(_readable(sorted(islice(paths, _MAX_FILES))))


def find(model: Path, symbols: int, shelf: VocabularyFolder) -> VocabularyMatch:
    """Find the vocabulary of a model.

    Used is what lies beside it (`MODEL.vocab.txt`, `vocab.txt`, or the only `vocab*.txt` that fits), else the library's
    own where that fits. One that lies elsewhere is named and never used: two languages may have as many symbols.

    Args:
        model: The model file.
        symbols: How many it was trained with.
        shelf: Where else to look for one to name.
    """
    beside = _beside(model)
    own = [path for path in beside if path.name.startswith(f"{model.stem}.")]
    own += [path for path in beside if path.name == NAME]
    if own:
        return _judged(own[0], model, symbols, shelf)
    fitting = [one for one in _readable(beside) if one.path.name.startswith("vocab") and one.fits(symbols)]
    if len(fitting) == 1:
        name = fitting[0].path.name
        return VocabularyMatch(
            fitting[0].path, warning=f"{_shown(name)} beside the model was used: it has as many symbols"
        )
    if symbols == LIBRARY_SYMBOLS:
        return _of_the_library(model, symbols)
    fault = f"There is no {NAME} beside it, and it was trained with {symbols} symbols."
    return VocabularyMatch(None, fault, _where_else(model, symbols, shelf))


def _judged(own: Path, model: Path, symbols: int, shelf: VocabularyFolder) -> VocabularyMatch:
    """The one that lies beside the model, if it fits."""
    name = _shown(own.name)
    try:
        vocabulary = read(own)
    except (OSError, ValueError) as error:
        why = f": {error}" if type(error) is ValueError else ""
        return VocabularyMatch(
            own, f"{name} beside it can't be read{why}.", "It has to be text in UTF-8, a symbol on each line."
        )
    if vocabulary.fits(symbols):
        return VocabularyMatch(own)
    fault = f"{name} beside it has {vocabulary.size} symbols, and the model was trained with {symbols}."
    if vocabulary.size == symbols - 1 and " " not in vocabulary.symbols:
        return VocabularyMatch(own, fault, "Its first line, a single space, is missing: put it back.")
    return VocabularyMatch(own, fault, _where_else(model, symbols, shelf))


def _of_the_library(model: Path, symbols: int) -> VocabularyMatch:
    """The library's own, unless the training has left another that fits."""
    path = library()
    own = next(_readable([path] if path is not None else []), None)
    for one in _nearby(model):
        if own is not None and one.fits(symbols) and one.symbols != own.symbols:
            place = _shown(os.path.relpath(one.path, model.parent))
            fault = f"There is no {NAME} beside it; f5-tts's own has as many symbols, and so has {place}, with others."
            return VocabularyMatch(
                None, fault, f"Copy the one that it was trained with beside it: most likely {place}."
            )
    warning = f"there is no {NAME} beside the model; f5-tts's own was used, which has as many symbols"
    return VocabularyMatch(path, warning=warning)


def library() -> Path | None:
    """The library's own vocabulary, where it is installed; nothing of it is imported."""
    package = find_spec("f5_tts")
    places = package.submodule_search_locations if package is not None else None
    files = (Path(place) / "infer/examples" / NAME for place in places or ())
    return next((file for file in files if file.is_file()), None)


# --- where else one lies ---------------------------------------------------------------------------------------------


def _where_else(model: Path, symbols: int, shelf: VocabularyFolder) -> str:
    """What to do about a vocabulary that is not there: a sentence or two."""
    fitting = (one.path for one in _everywhere(model, shelf) if one.fits(symbols))
    place = next((_place(path, model, shelf) for path in fitting), "")
    if not place and symbols == LIBRARY_SYMBOLS:
        place = "f5-tts's own (infer/examples/vocab.txt)"
    if place:
        return f"{place} has as many: copy it beside the model if it is the one that it was trained with."
    bytewise = " A model that was trained on bytes (tokenizer: byte) has none, and can't be used." * (symbols == _BYTES)
    looked = f"in the folder above, in data/*/ of a training run, or under models/; f5-tts's own has {LIBRARY_SYMBOLS}"
    return f"Copy the one that it was trained with beside it. None with {symbols} symbols was found {looked}.{bytewise}"


def _everywhere(model: Path, shelf: VocabularyFolder) -> Iterator[Vocabulary]:
    yield from _readable(_beside(model))
    yield from _nearby(model)
    yield from shelf.all


def _place(path: Path, model: Path, shelf: VocabularyFolder) -> str:
    if shelf.folder is not None and path.is_relative_to(shelf.folder):
        return _shown(path.relative_to(shelf.folder.parent))
    return _shown(os.path.relpath(path, model.parent))


def _nearby(model: Path) -> Iterator[Vocabulary]:
    """In the folder above, and in ROOT/data/*/ for a model in ROOT/ckpts/*/, where a training run has them."""
    folder = Path(os.path.abspath(model.parent))
    places = [folder.parent / NAME]
    for root in islice(folder.parents, _FOLDERS_ABOVE):
        places += [root / "data" / name / NAME for name in islice(_names(root / "data"), _MAX_FILES)]
    yield from _readable(places)


def _beside(model: Path) -> list[Path]:
    """Files beside a model that may be vocabularies; no pipe, which would have to be waited for."""
    paths = (model.parent / name for name in _names(model.parent) if _is_one(name))
    return list(islice(filter(Path.is_file, paths), _MAX_FILES))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _is_one(name: str) -> bool:
    return "vocab" in name.lower() and name.lower().endswith(".txt") and not name.startswith(".")


def _readable(paths: Sequence[Path]) -> Iterator[Vocabulary]:
    left = _MAX_BYTES
    for path in paths:
        try:
            if path.is_file():
                left -= path.stat().st_size
                if left < 0:
                    return
                yield read(path)
        except (OSError, ValueError):
            continue


def _shown(path: object) -> str:
    """A path for a message, with nothing in it that could steer a terminal."""
    text = str(path)
    return text if text.isprintable() else ascii(text)
