"""Finds the file under models/ that a job's checkpoint name means.

    anna/best_model.pth     a path in models/
    anna/best_model         the same without the extension
    anna                    a folder: `model.*` in it, else `best_model.*`, else its only model file
    best_model              a file or folder of that name in any subfolder
    anna/best               the file with the lowest validation loss in that folder

A complete path always means that file. A name that fits several files is an error that lists them.
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
MAX_CANDIDATES, MAX_COMPARED = 1_000, 200  # of names, for "did you mean"
MAX_REMEMBERED = 1_000
SETTLED_NS = 2 * 10**9  # two changes within one tick of the file system's clock have the same mtime


class Unresolved(NotAllowed):
    """A name that fits no model, or several; the message is for the author of the job."""


def find(models: Path, name: str, allowed_roots: Sequence[Path] = ()) -> Path:
    """Find the file that a name means.

    Args:
        models: The models folder; may be missing.
        name: As in a job file.
        allowed_roots: Further folders for absolute paths and targets of links.

    Returns:
        Its real path.

    Raises:
        NotAllowed: The path is outside the folders.
        Unresolved: The name fits no model, or several.
    """
    return Models(models, tuple(allowed_roots)).find(name)


@dataclass(slots=True)
class Models:
    """The models of a spool, by name. Caches listings and headers until a folder or file changes.

    Attributes:
        folder, allowed_roots: As in `find`.
    """

    folder: Path
    allowed_roots: tuple[Path, ...] = ()
    _listing: ModelsListing | None = None
    _known: dict[Path, tuple[int, CheckpointRef]] = field(default_factory=dict)

    def refer(self, name: str) -> CheckpointRef:
        """The model that a name means; its `why_not` says why it does not load. Raises as `find`."""
        return self._reference(self.find(name))

    def missing(self, model: CheckpointRef) -> str:
        """Which files a model needs that are not on this machine, and what to do; "" if it has all.

        Not cached: a base model may be added or removed at any time.
        """
        missing = requirements.missing(model.needs, self.folder)
        return "" if missing is None else printable(f"{missing.message}. {missing.hint}")

    def find(self, name: str) -> Path:
        """Find a file; see the function `find`."""
        path = PurePosixPath(name)
        if "\0" in name or ".." in path.parts:
            raise NotAllowed(f"{printable(name)} is outside the spool's folders")
        real = self._real(name)
        if path.is_absolute() or real.is_file():
            return self._allowed(name, real)
        if self._listing is None or not self._listing.is_current():
            self._listing = ModelsListing.of(self.folder)
        # A folder may be named through a link; the listing has it under its real path.
        without_links = PurePosixPath(os.path.relpath(real, self.folder.resolve()))
        files = self._fitting(path, self._listing) or self._fitting(without_links, self._listing)
        fits = {self._real(file): file for file in files}
        if len(fits) != 1:
            raise Unresolved(_why_several(name, list(fits.values())) if fits else _why_none(name, self._listing))
        return self._allowed(name, next(iter(fits)))

    def _real(self, name: str) -> Path:
        try:
            return (self.folder / name).resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            raise NotAllowed(f"{printable(name)} can't be opened: {printable(error)}") from None

    def _allowed(self, name: str, real: Path) -> Path:
        check_place(name, real, (self.folder, *self.allowed_roots))
        if not real.is_file():
            raise Unresolved(
                f"{printable(name)} {'is not a file' if real.exists() else 'does not exist'}; name a model file"
            )
        return real

    def _fitting(self, name: PurePosixPath, listing: ModelsListing) -> Sequence[str]:
        if (files := listing.by_name.get(normalize("NFC", str(name)))) or name.name != BEST:
            return files or ()
        return [file for folder in listing.folders(name.parent) for file in self._best_in(folder, listing)]

    def _best_in(self, folder: str, listing: ModelsListing) -> list[str]:
        """The best file in a folder; if no file in it has a validation loss, the best of each folder below."""
        if best := self._best(listing.files_in.get(folder, ())):
            return [best]
        below = (files for other, files in listing.files_in.items() if PurePosixPath(other).is_relative_to(folder))
        return [best for files in below if (best := self._best(files))]

    def _best(self, files: Sequence[str]) -> str | None:
        """The first file with the lowest validation loss; None if none has a loss.

        A file that no engine can load is chosen only if no other file has a loss.
        """
        losses: dict[str, tuple[bool, float]] = {}
        for file in files:
            with contextlib.suppress(NotAllowed):
                model = self._reference(self._allowed(file, self._real(file)))
                if model.validation_loss is not None:
                    losses[file] = model.engine is None, model.validation_loss
        return min(losses, key=losses.__getitem__, default=None)

    def _reference(self, real: Path) -> CheckpointRef:
        """The model's header, read again only if the file, a file next to it or its folder has changed."""
        folder_ns = _mtime_ns(real.parent)
        known = self._known.pop(real, None)  # and inserted again below: the dict is in order of last use
        if known is None or known[0] != folder_ns or known[1].state != state_of(known[1].files):
            known = folder_ns, _new_reference(real, self._name(real), self.folder)
        self._known[real] = known
        if len(self._known) > MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        return known[1]

    def _name(self, real: Path) -> str:
        folder = self.folder.resolve()
        return printable(real.relative_to(folder) if real.is_relative_to(folder) else real)


@dataclass(frozen=True, slots=True)
class ModelsListing:
    """The content of models/ at one moment.

    Attributes:
        by_name: Every valid name, in NFC -> the files that it fits, as paths in models/.
        files_in: Every folder with model files, as a path in models/ -> these files, in natural order.
        mtimes_ns: Every folder -> its mtime, ns.
        settled: Whether a further change is sure to change an mtime.
    """

    by_name: Mapping[str, Sequence[str]]
    files_in: Mapping[str, Sequence[str]]
    mtimes_ns: Mapping[str, int]
    settled: bool

    @classmethod
    def of(cls, models: Path) -> ModelsListing:
        """List models/.

        Raises:
            Unresolved: It has too many folders.
        """
        now_ns = time.time_ns()
        mtimes_ns = _folders_below(models)
        files_in: dict[str, list[str]] = {}
        for file in inspection.candidates(models):
            path = file.relative_to(models)
            files_in.setdefault(str(path.parent), []).append(str(path))
        settled = bool(mtimes_ns) and max(mtimes_ns.values()) < now_ns - SETTLED_NS
        return cls(_names(files_in), files_in, mtimes_ns, settled)

    def is_current(self) -> bool:
        """Whether no file was added or removed since."""
        return self.settled and all(_mtime_ns(folder) == mtime_ns for folder, mtime_ns in self.mtimes_ns.items())

    def folders(self, name: PurePosixPath) -> list[str]:
        """The folder of that path, else all folders of that name, in any subfolder."""
        word = normalize("NFC", str(name))
        paths = {str(parent): normalize("NFC", str(parent)) for folder in self.files_in for parent in _upwards(folder)}
        exact = [folder for folder, path in paths.items() if path == word]
        return exact or [folder for folder, path in paths.items() if path.rpartition("/")[2] == word]


def _names(files_in: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """All valid names of the files: their paths and the last parts of these, with and without extension; folders."""
    names: dict[str, dict[str, None]] = {}
    below: dict[str, list[str]] = {}
    for folder, files in files_in.items():
        for file in files:
            _add(names, file, [file])
            _add(names, str(PurePosixPath(file).with_suffix("")), [file])
        for parent in _upwards(folder)[:-1]:  # without models/ itself
            below.setdefault(parent, []).extend(files)
    for folder, files in below.items():
        _add(names, folder, _of_folder(files_in.get(folder, ()), files))
    return {word: tuple(files) for word, files in names.items()}


def _add(names: dict[str, dict[str, None]], path: str, files: Sequence[str]) -> None:
    for word in {path, path.rpartition("/")[2]}:
        names.setdefault(normalize("NFC", word), {}).update(dict.fromkeys(files))


def _of_folder(directly: Sequence[str], below: Sequence[str]) -> Sequence[str]:
    """The files that the name of a folder means: `model.*`, else `best_model.*`, else all."""
    for stem in PREFERRED:
        if preferred := [file for file in directly if PurePosixPath(file).stem == stem]:
            return preferred
    return directly or below


def _upwards(folder: str) -> list[str]:
    """A folder and its parents, up to `.`, which is models/ itself."""
    path = PurePosixPath(folder)
    return [str(path), *map(str, path.parents)]


def _folders_below(models: Path) -> dict[str, int]:
    """Every folder below models/ that is not hidden, with its mtime (ns) from before it was listed.

    Raises:
        Unresolved: There are too many.
    """
    mtimes_ns: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()  # links may form a loop
    pending = [str(models)]
    while pending:
        folder = pending.pop()
        with contextlib.suppress(OSError):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen or not stat.S_ISDIR(status.st_mode):
                continue
            seen.add((status.st_dev, status.st_ino))
            mtimes_ns[folder] = status.st_mtime_ns
            pending += [os.path.join(folder, name) for name in os.listdir(folder) if name[0] != "."]
        if len(mtimes_ns) > MAX_FOLDERS:
            raise Unresolved(f"models/ has more than {MAX_FOLDERS} folders; name the model by its complete path")
    return mtimes_ns


def _new_reference(real: Path, name: str, models: Path) -> CheckpointRef:
    """Read a file's header. Runs no code from the file, and does not read the weights."""
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
    return f"{shown(name)} fits several models: {listed(files)}; name one by its path"


def _why_none(name: str, listing: ModelsListing) -> str:
    files = [file for folder in listing.files_in.values() for file in folder]
    if not files:
        return f"unknown model {shown(name)}; models/ has no model files"
    if PurePosixPath(name).name == BEST and listing.folders(PurePosixPath(name).parent):
        return f"can't choose {shown(name)}: none of these files has a validation loss: {listed(files)}"
    alike = nsmallest(
        MAX_COMPARED, islice(listing.by_name, MAX_CANDIDATES), key=lambda word: abs(len(word) - len(name))
    )
    return f"unknown model {shown(name)}; available in models/: {listed(files)}{nearest(name, alike)}"


def _mtime_ns(folder: Path | str) -> int:
    """0 if it can't be read."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0
