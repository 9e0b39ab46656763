"""What a job calls a model, and which file under models/ that is.

    anna/best_model.pth     a path in models/
    anna/best_model         the same without its ending
    anna                    a folder: the `model.*` in it, else the `best_model.*`, else the only one that it holds
    best_model              a name alone: whatever file or folder of that name there is, however deep
    anna/best               the one with the lowest validation loss in that folder

A whole path always means that file, so that each can be named. A name that fits several is refused, with a list.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import islice
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from engines.checkpoints import inspection, requirements
from engines.checkpoints.reference import CheckpointRef, state_of
from files.allowed_paths import NotAllowed, check_place
from files.printable import printable
from jobs.spec.problems import listed, nearest, shown

PREFERRED = ("model", "best_model")
BEST = "best"
MAX_FOLDERS = 10_000
MAX_LOOKED_AT, MAX_COMPARED = 1_000, 200
MAX_REMEMBERED = 1_000
SETTLED_NS = 2 * 10**9  # two changes within the grain of a file system's clock look like one


class Unresolved(NotAllowed):
    """A name that stands for no model, or for several; the text is a sentence for its author."""


def find(models: Path, name: str, allowed_roots: Sequence[Path] = ()) -> Path:
    """Find the file that a name stands for.

    Args:
        models: The folder that models are named in; one that is not there holds none.
        name: As in a job file.
        allowed_roots: Further folders, for absolute names and for links.

    Returns:
        Its real path.

    Raises:
        NotAllowed: It leads out of the folders; or, as `Unresolved`, it stands for no model, or for several.
    """
    return Models(models, tuple(allowed_roots)).find(name)


@dataclass(slots=True)
class Models:
    """The models of a spool, by name. Remembers what it has seen, and looks again at what has changed since.

    Attributes:
        folder, allowed_roots: As for `find`.
    """

    folder: Path
    allowed_roots: tuple[Path, ...] = ()
    _shelf: ModelsListing | None = None
    _known: dict[Path, tuple[int, CheckpointRef]] = field(default_factory=dict)

    def refer(self, name: str) -> CheckpointRef:
        """The model that a name stands for; one that does not load says why. Raises as `find`."""
        return self._reference(self.find(name))

    def lacks(self, model: CheckpointRef) -> str:
        """What the engine would not find on this machine for a model, and what to do about it; "" when all is there.

        Asked each time: a base model may come or go at any moment.
        """
        missing = requirements.missing(model.needs, self.folder)
        return "" if missing is None else printable(f"{missing.message}. {missing.hint}")

    def find(self, name: str) -> Path:
        """As the function `find`."""
        path = PurePosixPath(name)
        if "\0" in name or ".." in path.parts:
            raise NotAllowed(f"{printable(name)} is outside the spool's folders")
        real = self._real(name)
        if path.is_absolute() or real.is_file():
            return self._allowed(name, real)
        if self._shelf is None or not self._shelf.is_current():
            self._shelf = ModelsListing.of(self.folder)
        without_links = PurePosixPath(os.path.relpath(real, self.folder.resolve()))
        files = self._fitting(path, self._shelf) or self._fitting(without_links, self._shelf)
        fits = {self._real(file): file for file in files}
        if len(fits) != 1:
            raise Unresolved(_why_several(name, list(fits.values())) if fits else _why_none(name, self._shelf))
        return self._allowed(name, next(iter(fits)))

    def _real(self, name: str) -> Path:
        try:
            return (self.folder / name).resolve()
        except (OSError, RuntimeError) as error:  # a circle of links
            raise NotAllowed(f"{printable(name)} can't be opened: {printable(error)}") from None

    def _allowed(self, name: str, real: Path) -> Path:
        check_place(name, real, (self.folder, *self.allowed_roots))
        if not real.is_file():
            raise Unresolved(f"{printable(name)} is {'no file' if real.exists() else 'not there'}; name a model file")
        return real

    def _fitting(self, name: PurePosixPath, shelf: ModelsListing) -> Sequence[str]:
        if (found := shelf.named.get(normalize("NFC", str(name)))) or name.name != BEST:
            return found or ()
        return [file for folder in shelf.folders(name.parent) for file in self._best_in(folder, shelf)]

    def _best_in(self, folder: str, shelf: ModelsListing) -> list[str]:
        """The best file in a folder; where none in it says how good it is, the best in each folder below it."""
        if best := self._best(shelf.held.get(folder, ())):
            return [best]
        below = (files for other, files in shelf.held.items() if PurePosixPath(other).is_relative_to(folder))
        return [best for files in below if (best := self._best(files))]

    def _best(self, files: Sequence[str]) -> str | None:
        """The first of those with the lowest validation loss; None when none says its own.

        A loss of something that no engine speaks with counts only where there is nothing else.
        """
        losses: dict[str, tuple[bool, float]] = {}
        for file in files:
            with contextlib.suppress(NotAllowed):
                model = self._reference(self._allowed(file, self._real(file)))
                if model.validation_loss is not None:
                    losses[file] = model.engine is None, model.validation_loss
        return min(losses, key=losses.__getitem__, default=None)

    def _reference(self, real: Path) -> CheckpointRef:
        """What its header says, read again only when the file, or what lies beside it, has changed."""
        beside = _mtime_ns(real.parent)
        known = self._known.pop(real, None)
        if known is None or known[0] != beside or known[1].state != state_of(known[1].files):
            known = beside, _new_reference(real, self._name(real), self.folder)
        self._known[real] = known
        if len(self._known) > MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        return known[1]

    def _name(self, real: Path) -> str:
        folder = self.folder.resolve()
        return printable(real.relative_to(folder) if real.is_relative_to(folder) else real)


@dataclass(frozen=True, slots=True)
class ModelsListing:
    """What lay under models/ at one moment.

    Attributes:
        named: Everything that a file may be called, in NFC -> the files that it fits, as paths in models/.
        held: Every folder with files in it, as a path in models/ -> these files, in natural order.
        changed: Every folder there is -> its mtime, ns.
        settled: Whether one more change would show in `changed`.
    """

    named: Mapping[str, Sequence[str]]
    held: Mapping[str, Sequence[str]]
    changed: Mapping[str, int]
    settled: bool

    @classmethod
    def of(cls, models: Path) -> ModelsListing:
        """Look through models/.

        Raises:
            Unresolved: There are too many folders in it.
        """
        now_ns = time.time_ns()
        changed = _folders_below(models)
        held: dict[str, list[str]] = {}
        for file in inspection.candidates(models):
            path = file.relative_to(models)
            held.setdefault(str(path.parent), []).append(str(path))
        settled = bool(changed) and max(changed.values()) < now_ns - SETTLED_NS
        return cls(_names(held), held, changed, settled)

    def is_current(self) -> bool:
        """Whether nothing came or went since."""
        return self.settled and all(_mtime_ns(folder) == mtime_ns for folder, mtime_ns in self.changed.items())

    def folders(self, name: PurePosixPath) -> list[str]:
        """The folders of a name: the one of that path, else those that are called so, however deep."""
        word = normalize("NFC", str(name))
        there = {str(parent): normalize("NFC", str(parent)) for folder in self.held for parent in _upwards(folder)}
        whole = [folder for folder, path in there.items() if path == word]
        return whole or [folder for folder, path in there.items() if path.rpartition("/")[2] == word]


def _names(held: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """All that the files may be called: their paths, and the last parts of these."""
    named: dict[str, dict[str, None]] = {}
    below: dict[str, list[str]] = {}
    for folder, files in held.items():
        for file in files:
            _note(named, file, [file])
            _note(named, str(PurePosixPath(file).with_suffix("")), [file])
        for parent in _upwards(folder)[:-1]:
            below.setdefault(parent, []).extend(files)
    for folder, files in below.items():
        _note(named, folder, _of_folder(held.get(folder, ()), files))
    return {word: tuple(files) for word, files in named.items()}


def _note(named: dict[str, dict[str, None]], path: str, files: Sequence[str]) -> None:
    for word in {path, path.rpartition("/")[2]}:
        named.setdefault(normalize("NFC", word), {}).update(dict.fromkeys(files))


def _of_folder(directly: Sequence[str], below: Sequence[str]) -> Sequence[str]:
    """What is meant by a folder: a finished model, else the trainer's best, else whatever there is."""
    for stem in PREFERRED:
        if preferred := [file for file in directly if PurePosixPath(file).stem == stem]:
            return preferred
    return directly or below


def _upwards(folder: str) -> list[str]:
    """A folder and those that it lies in, up to `.`, which is models/ itself."""
    path = PurePosixPath(folder)
    return [str(path), *map(str, path.parents)]


def _folders_below(models: Path) -> dict[str, int]:
    """Every folder that models are looked for in, with its mtime (ns) from before it is looked into.

    Raises:
        Unresolved: There are too many.
    """
    found: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    left = [str(models)]
    while left:
        folder = left.pop()
        with contextlib.suppress(OSError):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen or not stat.S_ISDIR(status.st_mode):
                continue
            seen.add((status.st_dev, status.st_ino))
            found[folder] = status.st_mtime_ns
            left += [os.path.join(folder, name) for name in os.listdir(folder) if name[0] != "."]
        if len(found) > MAX_FOLDERS:
            raise Unresolved(f"models/ has more than {MAX_FOLDERS} folders in it; name the model by its whole path")
    return found


def _new_reference(real: Path, name: str, models: Path) -> CheckpointRef:
    """What a file's header says. Nothing in the file is run, and the weights are not read."""
    try:
        seen = inspection.inspect(real, models)
    except OSError as error:
        raise NotAllowed(f"{name} can't be opened: {error.strerror}") from None
    why_not = "" if seen.loads else printable(" ".join(filter(None, (seen.why_not, seen.cure))))
    files = tuple(file for file in (real, seen.config, seen.vocab, seen.speakers) if file is not None)
    return CheckpointRef(
        path=real,
        name=name,
        engine=seen.engine,
        architecture=printable(seen.architecture),
        why_not=why_not,
        validation_loss=seen.validation_loss,
        files=files,
        needs=requirements.of(seen),
        state=state_of(files),
    )


def _why_several(name: str, files: Sequence[str]) -> str:
    return f"{shown(name)} fits several models: {listed(files)}; name one of them by its path"


def _why_none(name: str, shelf: ModelsListing) -> str:
    files = [file for held in shelf.held.values() for file in held]
    if not files:
        return f"there is no model {shown(name)}: there are none in models/"
    if PurePosixPath(name).name == BEST and shelf.folders(PurePosixPath(name).parent):
        return f"{shown(name)} can't be told: none of these says its validation loss; there is {listed(files)}"
    alike = nsmallest(MAX_COMPARED, islice(shelf.named, MAX_LOOKED_AT), key=lambda word: abs(len(word) - len(name)))
    return f"there is no model {shown(name)} in models/; there is {listed(files)}{nearest(name, alike)}"


def _mtime_ns(folder: Path | str) -> int:
    """0 for one that is not there."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0
