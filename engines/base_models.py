"""The base models that engines speak with when a job names no checkpoint: what each consists of, and where it lies.

A folder is taken for a base model by its place and name first, then by what is in it: a fine-tuned model may have the
same files, so one that lies under any other name in models/ is never taken. Nothing is loaded or downloaded here;
`voicespool models pull` does that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engines.errors import EngineMissing

MODELS_VARIABLE = "VOICESPOOL_MODELS"
"""Where the daemon tells its worker which folder the configuration means by `models`."""


@dataclass(frozen=True, slots=True)
class Licence:
    """On what terms a model may be used.

    Attributes:
        name, title: Short and in full.
        url: Of its text.
        summary: What it comes down to, in plain words, a line each.
    """

    name: str
    title: str
    url: str
    summary: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """One file as it was published.

    Attributes:
        name: In the model's folder and in its repository.
        size: In bytes.
        sha256: Of its content, hex.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A published model. One more is one more entry in `BASE_MODELS`.

    Attributes:
        name: As in `voicespool models pull NAME`; the engine's.
        title: For people.
        architecture: What `engines.architectures` must make of its weights.
        licence: On what terms it may be used.
        repository, revision: On the Hugging Face hub; the revision is a commit, so that it never changes.
        files: What is downloaded.
        weights: Names of weights; any one of them will do.
        needed: Files without which the weights can't be used.
        folder: Its place under models/.
        other_names: Under these it may lie there too; letter case and punctuation do not matter.
        mirrors: Other repositories whose copies in Hugging Face's cache are as good.
        coqui_folder: Its name in the cache of coqui's library, or None.
    """

    name: str
    title: str
    architecture: str
    licence: Licence
    repository: str
    revision: str
    files: tuple[Published, ...]
    weights: tuple[str, ...]
    needed: tuple[str, ...]
    folder: str
    other_names: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    coqui_folder: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def command(self) -> str:
        """What brings it here."""
        return f"voicespool models pull {self.name}"


_XTTS = BaseModel(
    name="xtts",
    title="XTTS-v2",
    architecture="XTTS-v2",
    licence=Licence(
        name="CPML 1.0.0",
        title="Coqui Public Model License 1.0.0",
        url="https://huggingface.co/coqui/XTTS-v2/blob/main/LICENSE.txt",
        summary=(
            "Non-commercial use only, of the model and of the audio that it makes.",
            "You may not receive payment, direct or indirect, for using either.",
            "Companies may test and evaluate it, and do non-commercial research.",
            "Whoever gets the model, a change of it, or its audio from you must get these terms or their address.",
        ),
    ),
    repository="coqui/XTTS-v2",
    revision="6c2b0d75eae4b7047358e3b6bd9325f857d43f77",
    files=(
        Published("LICENSE.txt", 4014, "190f6d7c19b8984f91b97712b94ce92d2b2e640fc677dacab966e955ece9d043"),
        Published("config.json", 4368, "ef262b1454dd2a77e1461b0b2cd53e19b8a7624cc131b837d36df67356bc75e8"),
        Published("vocab.json", 361219, "928260878a59da8a72a2a5b7687fea29d5106137669d90945430fe17e415304a"),
        Published("speakers_xtts.pth", 7754818, "f0f6137c19a4eab0cbbe4c99b5babacf68b1746e50da90807708c10e645b943b"),
        Published("model.pth", 1867929118, "c7ea20001c6a0a841c77e252d8409f6a74fb423e79b3206a0771ba5989776187"),
    ),
    weights=("model.pth", "model.safetensors"),
    needed=("config.json", "vocab.json"),
    folder="xtts-v2",
    other_names=("xtts", "xttsv2", "coqui-xtts-v2", "tts_models--multilingual--multi-dataset--xtts_v2"),
    mirrors=("tts-hub/XTTS-v2",),
    coqui_folder="tts_models--multilingual--multi-dataset--xtts_v2",
)

BASE_MODELS = {model.name: model for model in (_XTTS,)}


def find(name: str, models: Path | None = None) -> Path | None:
    """The folder that holds a base model: its weights with their configuration and vocabulary.

    Args:
        name: A key of `BASE_MODELS`.
        models: The spool's folder of models; None means `$VOICESPOOL_MODELS`, and without that the caches alone.

    Returns:
        None when it is nowhere, or nowhere complete.
    """
    model = BASE_MODELS[name]
    return next((folder for folder in places(model, models) if not fault(model, folder)), None)


def need(name: str, models: Path | None = None) -> Path:
    """The same, for who can't go on without.

    Raises:
        EngineMissing: It is not there; says what was found instead, and which command brings it.
    """
    found = find(name, models)
    if found is not None:
        return found
    model = BASE_MODELS[name]
    wrong = [f"; {str(folder)!r} does not hold it: {fault(model, folder)}" for folder in places(model, models)]
    raise EngineMissing(
        f"the base model {model.title} is not on this machine{''.join(wrong)}",
        f"Run `{model.command}`: it downloads the model once you accept its licence.",
    )


def places(model: BaseModel, models: Path | None = None) -> Iterator[Path]:
    """The folders that are there and may hold a base model, in the order in which they are tried.

    models/ under the name that `models pull` gives it, models/ under other names, the cache of coqui's library, the
    cache of the Hugging Face hub.
    """
    if models is None and (given := os.environ.get(MODELS_VARIABLE)):
        models = Path(given)
    candidates = [] if models is None else _under(models, model)
    if model.coqui_folder is not None:
        candidates.append(_coqui_cache() / model.coqui_folder)
    for repository in (model.repository, *model.mirrors):
        candidates += _snapshots(_hub_cache() / f"models--{repository.replace('/', '--')}", model.revision)
    yield from filter(Path.is_dir, candidates)


def fault(model: BaseModel, folder: Path) -> str:
    """Why a folder can't be used as this base model, in words; "" when it can."""
    from engines import tensors
    from engines.architectures import recognise

    lacking = [name for name in model.needed if not _there(folder / name)]
    weights = next((folder / name for name in model.weights if _there(folder / name)), None)
    if weights is None:
        lacking.append(" or ".join(model.weights))
    if weights is None or lacking:
        return f"{', '.join(lacking)} not there, or empty"
    try:
        found = recognise(tensors.read(weights))
    except tensors.Unreadable as error:
        return f"{weights.name} can't be used: {error.reason}"
    except OSError as error:
        return f"{weights.name} can't be read: {error.strerror}"
    return found.fault if found.name == model.architecture else f"{weights.name} is {found.name}"


def _there(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _under(models: Path, model: BaseModel) -> list[Path]:
    allowed = {_plain(name) for name in (model.folder, *model.other_names)}
    try:
        names = sorted(name for name in os.listdir(models) if _plain(name) in allowed)
    except OSError:
        return []
    names.sort(key=lambda name: name != model.folder)
    return [models / name for name in names]


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower())


def _coqui_cache() -> Path:
    """As in coqui-tts 0.28, `trainer.io.get_user_data_dir`."""
    data = os.environ.get("TTS_HOME") or os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.path.expanduser(data)) / "tts"


def _hub_cache() -> Path:
    """As in huggingface_hub 1.33, `constants.HF_HUB_CACHE`."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expanduser(os.path.expandvars(given)))


def _snapshots(repository: Path, revision: str) -> list[Path]:
    """Revisions in the hub's cache: the one that `main` was last, the one published here, then the others."""
    try:
        there = sorted(os.listdir(repository / "snapshots"))
    except OSError:
        return []
    try:
        main = (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        main = ""
    there.sort(key=lambda name: (name != main, name != revision))
    return [repository / "snapshots" / name for name in there]
