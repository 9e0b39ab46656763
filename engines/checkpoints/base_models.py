"""The published models that engines speak with: what each consists of, and where it lies.

Base models, for jobs that name no checkpoint, and the vocoders that F5-TTS needs. A folder is taken for one by its
place and name first, then by what is in it: a fine-tuned model may have the same files, so one that lies under any
other name in models/ is never taken. Nothing is loaded or downloaded here; `voicespool models pull` does that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engines.errors import EngineMissing


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
        name: As in `voicespool models pull NAME`; the engine's, where an engine speaks with it.
        title: For people.
        architecture: What `engines.checkpoints.architectures` must make of its weights: how the name begins.
        licence: On what terms it may be used.
        repository, revision: On the Hugging Face hub; the revision is a commit, so that it never changes.
        files: What is downloaded; none where users have to bring it.
        weights: Patterns of weights' names; the first that fits something counts.
        needed: Files without which the weights can't be used.
        folder: Its place under models/.
        other_names: Under these it may lie there too; letter case and punctuation do not matter.
        mirrors: Other repositories whose copies in Hugging Face's cache are as good.
        coqui_folder: Its name in the cache of coqui's library, or None.
        needs: Names of others that it can't speak without. They are pulled with it, and may lie in its folder.
        notes: Names and contents of files that `models pull` adds, which say what the published ones do not.
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
    needs: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

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

_F5 = BaseModel(
    name="f5",
    title="F5-TTS v1 Base",
    architecture="F5-TTS",
    licence=Licence(
        name="CC BY-NC 4.0",
        title="Creative Commons Attribution-NonCommercial 4.0",
        url="https://creativecommons.org/licenses/by-nc/4.0/legalcode",
        summary=(
            "Non-commercial use only, of the model and of what is made from it.",
            "Whoever gets it from you must be told who made it, under which licence, and what was changed.",
        ),
    ),
    repository="SWivid/F5-TTS",
    revision="84e5a410d9cead4de2f847e7c9369a6440bdfaca",
    files=(
        Published("F5TTS_v1_Base/vocab.txt", 13800, "2a05f992e00af9b0bd3800a8d23e78d520dbd705284ed2eedb5f4bd29398fa3c"),
        Published(
            "F5TTS_v1_Base/model_1250000.safetensors",
            1348435761,
            "670900fd14e6c458b95da6e9ed317cdb20dbaf7a1c02ac06a05475a9d32b6a38",
        ),
    ),
    weights=("F5TTS_v1_Base/model_*.safetensors", "model_1250000.safetensors"),
    needed=(),  # no vocab.txt: the library's own has the same symbols, and it downloads the weights alone
    folder="f5-tts-v1",
    other_names=("f5", "f5tts", "f5-tts", "f5tts-v1", "f5tts-v1-base", "f5-tts-v1-base"),
    needs=("vocos",),
    notes=(("F5TTS_v1_Base/model_1250000.yaml", "variant: v1\n"),),
)

_VOCOS = BaseModel(
    name="vocos",
    title="Vocos (for F5-TTS)",
    architecture="a Vocos vocoder",
    licence=Licence(
        name="MIT",
        title="MIT License",
        url="https://github.com/gemelo-ai/vocos/blob/main/LICENSE",
        summary=("Any use. Its notice goes along with every copy.",),
    ),
    repository="charactr/vocos-mel-24khz",
    revision="0feb3fdd929bcd6649e0e7c5a688cf7dd012ef21",
    files=(
        Published("config.yaml", 461, "da9033922f969a47f0c160010226919e59f27761fd5066f3828d46de6650b0fc"),
        Published("pytorch_model.bin", 54365991, "97ec976ad1fd67a33ab2682d29c0ac7df85234fae875aefcc5fb215681a91b2a"),
    ),
    weights=("pytorch_model.bin",),
    needed=("config.yaml",),
    folder="vocos-mel-24khz",
    other_names=("vocos", "charactr-vocos-mel-24khz"),
)

BIGVGAN = BaseModel(
    name="bigvgan",
    title="BigVGAN v2 (for F5-TTS)",
    architecture="a BigVGAN vocoder",
    licence=Licence(
        name="MIT",
        title="MIT License",
        url="https://github.com/NVIDIA/BigVGAN/blob/main/LICENSE",
        summary=("Any use. Its notice goes along with every copy.",),
    ),
    repository="nvidia/bigvgan_v2_24khz_100band_256x",
    revision="main",
    files=(),
    weights=("bigvgan_generator.pt",),
    needed=("config.json",),
    folder="bigvgan_v2_24khz_100band_256x",
    other_names=("bigvgan", "nvidia-bigvgan-v2-24khz-100band-256x"),
)
"""The vocoder of few F5-TTS: used where it is, and never downloaded."""

BASE_MODELS = {model.name: model for model in (_XTTS, _F5, _VOCOS)}
"""Those that `models pull` brings."""


def users(model: BaseModel) -> list[BaseModel]:
    """Those that can't speak without it, itself excluded."""
    return [one for one in BASE_MODELS.values() if model.name in one.needs]


def find(name: str, models: Path | None) -> Path | None:
    """The folder that holds a base model: its weights with their configuration and vocabulary.

    Args:
        name: A key of `BASE_MODELS`, or `bigvgan`.
        models: The spool's folder of models; None for the caches alone.

    Returns:
        None when it is nowhere, or nowhere complete.
    """
    model = _named_model(name)
    return next((folder for folder in places(model, models) if not fault(model, folder)), None)


def need(name: str, models: Path | None) -> Path:
    """The same, for who can't go on without.

    Raises:
        EngineMissing: It is not there; says what was found instead, and what brings it.
    """
    found = find(name, models)
    if found is not None:
        return found
    model = _named_model(name)
    wrong = [f"; {str(folder)!r} does not hold it: {fault(model, folder)}" for folder in places(model, models)]
    raise EngineMissing(
        f"the model {model.title} is not on this machine{''.join(wrong)}",
        f"Run `{model.command}`: it downloads the model once you accept its licence." if model.files else _bring(model),
    )


def _named_model(name: str) -> BaseModel:
    return BIGVGAN if name == BIGVGAN.name else BASE_MODELS[name]


def _bring(model: BaseModel) -> str:
    return (
        f"Put {' and '.join((*model.needed, *model.weights))} of {model.repository}, on the Hugging Face hub, "
        f"into the folder {model.folder} under models."
    )


def weights(name: str, models: Path | None) -> Path:
    """The file that holds a base model's weights.

    Raises:
        EngineMissing: As for `need`.
    """
    model = BASE_MODELS[name]
    found = _weights_in(need(name, models), model)
    if found is None:
        raise EngineMissing(f"the model {model.title} was removed meanwhile", f"Run `{model.command}`.")
    return found


def places(model: BaseModel, models: Path | None) -> Iterator[Path]:
    """The folders that are there and may hold a base model, in the order in which they are tried.

    models/ under the name that `models pull` gives it, models/ under other names, in the folder of a model that needs
    it, the cache of coqui's library, the cache of the Hugging Face hub.
    """
    candidates = [] if models is None else _in_models(models, model)
    if model.coqui_folder is not None:
        candidates.append(_coqui_cache() / model.coqui_folder)
    for repository in (model.repository, *model.mirrors):
        candidates += _snapshots(_hub_cache() / f"models--{repository.replace('/', '--')}", model.revision)
    yield from filter(Path.is_dir, candidates)


def fault(model: BaseModel, folder: Path) -> str:
    """Why a folder can't be used as this base model, in words; "" when it can."""
    lacking = [name for name in model.needed if not _there(folder / name)]
    weights = _weights_in(folder, model)
    if weights is None:
        lacking.append(" or ".join(model.weights))
    if weights is None or lacking:
        return f"{', '.join(lacking)} not there, or empty"
    try:
        status = weights.stat()
        return _fault_of_weights(model, weights, (status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError as error:
        return f"{weights.name} can't be read: {error.strerror}"


@lru_cache(maxsize=64)
def _fault_of_weights(model: BaseModel, weights: Path, _state: tuple[int, ...]) -> str:
    """The same of the file alone; asked for each job, and read again only when the file has changed."""
    from engines.checkpoints.architectures import recognise
    from engines.modelfiles import tensors

    try:
        found = recognise(tensors.read(weights))
    except tensors.UnreadableModelFile as error:
        return f"{weights.name} can't be used: {error.reason}"
    if not found.name.startswith(model.architecture):
        return f"{weights.name} is {found.name}"
    return found.fault if found.engine is not None else ""  # a vocoder is no model for a job


def _weights_in(folder: Path, model: BaseModel) -> Path | None:
    fitting = (path for pattern in model.weights for path in sorted(folder.glob(pattern)))
    return next(filter(_there, fitting), None)


def _there(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _in_models(models: Path, model: BaseModel) -> list[Path]:
    """Its folders in models/, then those in the folders of models that can't speak without it."""
    around = (folder for user in users(model) for folder in _named(models, user))
    return [*_named(models, model), *(folder for one in around for folder in _named(one, model))]


def _named(models: Path, model: BaseModel) -> list[Path]:
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
