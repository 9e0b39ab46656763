"""`voicespool voices list`: the recordings that jobs can name, with their faults, and the voices built into engines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engines.checkpoints import base_models
from engines.checkpoints.base_models import BaseModel
from engines.modelfiles import tensors
from engines.registry import engines
from engines.voices.recordings import Recording, examine
from files.allowed_paths import NotAllowed
from jobs.names import natural
from jobs.spool.places import Places, read_transcript
from watcher.config.settings import Config
from watcher.daemon.session import places

MAX_FILES = 10_000
SPEAKERS_FILE = "speakers_xtts.pth"
_READABLE = {".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"}
_FOREIGN = {".m4a", ".mp4", ".aac", ".webm", ".mka", ".mkv", ".mov", ".3gp", ".amr", ".wma", ".wv", ".ape"}
"""Listed all the same, so that their owner learns what to do with them."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A recording under voices/.

    Attributes:
        name: As a job names it: its path below the folder.
        recording: What it is like; sentences begin with "it".
        has_transcript: Its transcript is next to it.
    """

    name: str
    recording: Recording
    has_transcript: bool = False

    def as_json(self) -> dict[str, Any]:
        facts = asdict(self.recording)
        del facts["path"]
        return {"file": self.name, "transcript": self.has_transcript, **facts}


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The built-in voices of an engine.

    Attributes:
        engine: Its name.
        speakers: What a job may give as `speaker`.
        note: Why there are none, where that can be changed.
        languages: Tags of the languages that each of them speaks.
        sexes: Name of a voice -> `female` or `male`, as far as that is known.
    """

    engine: str
    speakers: tuple[str, ...]
    note: str = ""
    languages: tuple[str, ...] = ()
    sexes: Mapping[str, str] = field(default_factory=dict)


def recordings(config: Config) -> Iterator[Voice]:
    """Examine every file under voices/ whose name ends like a recording's, in natural order; at most `MAX_FILES`.

    Links are followed as far as a job may follow them; a folder that is a link is named and not entered.
    """
    allowed = places(config)
    for number, (name, fault) in enumerate(_names(config.voices)):
        if number == MAX_FILES:
            yield _unusable(".", f"it holds more than {MAX_FILES} files; the others are not listed")
            return
        yield _unusable(name, fault) if fault else _voice(name, config.voices, allowed)


def _names(folder: Path) -> Iterator[tuple[str, str]]:
    """Paths below a folder, without hidden ones, those of a folder before those of its subfolders; and why one of
    them can't be looked at, else "".
    """
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(folder / below) as listing:
                entries = sorted((one for one in listing if one.name[0] != "."), key=lambda one: natural(one.name))
        except OSError as error:
            yield below or ".", f"it can't be read: {error.strerror}"
            continue
        inner = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        waiting += [os.path.join(below, entry.name) for entry in reversed(inner)]
        for entry in entries:
            named = Path(entry.name).suffix.lower() in _READABLE | _FOREIGN
            if entry not in inner and (named or (entry.is_symlink() and os.path.isdir(entry.path))):
                yield os.path.join(below, entry.name), ""


def _voice(name: str, folder: Path, allowed: Places) -> Voice:
    try:
        real = allowed.find(name, folder)
        if real is None:
            return _unusable(name, "it is a link to a file that does not exist")
        if real.stat().st_size > allowed.max_bytes:
            return _unusable(name, f"it is larger than limits.recording_bytes ({allowed.max_bytes} bytes)")
    except NotAllowed as error:
        return _unusable(name, str(error))
    except OSError as error:
        return _unusable(name, f"it can't be read: {error.strerror}")
    with _quiet():
        return Voice(name, examine(real, "it"), read_transcript(real) is not None)


def _unusable(name: str, fault: str) -> Voice:
    return Voice(name, Recording(Path(name), errors=(fault,)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The decoder of MP3 writes remarks straight to the process's standard error, without saying about which file."""
    with open(os.devnull, "wb") as nothing:
        kept = os.dup(2)
        try:
            os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def built_in(models: Path) -> Iterator[BuiltIn]:
    """The voices of every engine that has some: its own, or those of its base model.

    Args:
        models: The spool's folder of models.
    """
    for name, engine in engines().items():
        info = engine.info()
        if info.speakers:
            yield BuiltIn(name, info.speakers, languages=info.languages, sexes=info.speaker_sexes)
        elif name in base_models.BASE_MODELS and _has_voices(base_models.BASE_MODELS[name]):
            yield replace(of_base_model(name, models), languages=info.languages)


def _has_voices(model: BaseModel) -> bool:
    return any(file.name == SPEAKERS_FILE for file in model.files)


def of_base_model(name: str, models: Path) -> BuiltIn:
    """The voices of an engine's base model, from the names in their file."""
    folder = base_models.find(name, models)
    if folder is None:
        return BuiltIn(name, (), f"its voices are in the base model: `{base_models.BASE_MODELS[name].command}`")
    try:
        return BuiltIn(name, speakers_in(folder / SPEAKERS_FILE))
    except FileNotFoundError:
        return BuiltIn(name, (), f"its base model has no {SPEAKERS_FILE}")
    except OSError as error:
        return BuiltIn(name, (), f"{SPEAKERS_FILE} can't be read: {error.strerror}")
    except tensors.UnreadableModelFile as error:
        return BuiltIn(name, (), f"{SPEAKERS_FILE} can't be read: {error.reason}")


def speakers_in(path: Path) -> tuple[str, ...]:
    """Names of the voices in a file of XTTS's speakers, in its order.

    Raises:
        OSError, engines.modelfiles.tensors.UnreadableModelFile: It is not there, or not such a file.
    """
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in tensors.read(path).entries))
