"""Published models: base models, and the vocoders that F5-TTS needs. Their files, and where they are on this machine.

In models/ only folders with certain names count as base models, since a fine-tuned model may have the same files. Then
the contents of the folder are checked. Nothing is loaded or downloaded here; `voicespool models pull` downloads.
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
    """The licence of a model.

    Attributes:
        name, title: Short and full name.
        url: Of its text.
        summary: Its terms in plain words, one line each.
    """

    name: str
    title: str
    url: str
    summary: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file of a published model.

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
    """A published model.

    Attributes:
        name: As in `voicespool models pull NAME`; for the base model of an engine, the engine's name.
        title: For users.
        architecture: `engines.checkpoints.architectures.recognise` must return a name that begins with this.
        licence: Its licence.
        repository, revision: On the Hugging Face hub; the revision is a commit, which never changes.
        files: Files to download; none if users have to download it themselves.
        weights: Patterns for the name of the weights; the first that matches a file counts.
        needed: Other files that it needs.
        folder: Name of its folder in models/.
        other_names: Other names that the folder may have; letter case and punctuation do not matter.
        mirrors: Other repositories with the same files; copies in the cache of the hub are used.
        coqui_folder: Name of its folder in the cache of coqui-tts, or None.
        needs: Names of models that it needs. They are downloaded with it, and may be inside its folder.
        notes: Names and contents of files that `models pull` adds, with facts missing in the published files.
    """

    name: str
    title: str
    architecture: str
    licence: Licence
    repository: str
    revision: str
    files: tuple[PublishedFile, ...]
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
        """The command that downloads it."""
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
            "If you share the model, a modified version or its audio, include these terms or their URL.",
        ),
    ),
    repository="coqui/XTTS-v2",
    revision="6c2b0d75eae4b7047358e3b6bd9325f857d43f77",
    files=(
        PublishedFile("LICENSE.txt", 4014, "190f6d7c19b8984f91b97712b94ce92d2b2e640fc677dacab966e955ece9d043"),
        PublishedFile("config.json", 4368, "ef262b1454dd2a77e1461b0b2cd53e19b8a7624cc131b837d36df67356bc75e8"),
        PublishedFile("vocab.json", 361219, "928260878a59da8a72a2a5b7687fea29d5106137669d90945430fe17e415304a"),
        PublishedFile("speakers_xtts.pth", 7754818, "f0f6137c19a4eab0cbbe4c99b5babacf68b1746e50da90807708c10e645b943b"),
        PublishedFile("model.pth", 1867929118, "c7ea20001c6a0a841c77e252d8409f6a74fb423e79b3206a0771ba5989776187"),
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
            "If you share it, name its authors, its licence and your changes.",
        ),
    ),
    repository="SWivid/F5-TTS",
    revision="84e5a410d9cead4de2f847e7c9369a6440bdfaca",
    files=(
        PublishedFile(
            "F5TTS_v1_Base/vocab.txt", 13800, "2a05f992e00af9b0bd3800a8d23e78d520dbd705284ed2eedb5f4bd29398fa3c"
        ),
        PublishedFile(
            "F5TTS_v1_Base/model_1250000.safetensors",
            1348435761,
            "670900fd14e6c458b95da6e9ed317cdb20dbaf7a1c02ac06a05475a9d32b6a38",
        ),
    ),
    weights=("F5TTS_v1_Base/model_*.safetensors", "model_1250000.safetensors"),
    needed=(),  # no vocab.txt: f5-tts has the same one, and downloads only the weights
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
        PublishedFile("config.yaml", 461, "da9033922f969a47f0c160010226919e59f27761fd5066f3828d46de6650b0fc"),
        PublishedFile(
            "pytorch_model.bin", 54365991, "97ec976ad1fd67a33ab2682d29c0ac7df85234fae875aefcc5fb215681a91b2a"
        ),
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
"""The vocoder of a few F5-TTS models; `models pull` does not download it."""

BASE_MODELS = {model.name: model for model in (_XTTS, _F5, _VOCOS)}
"""The models that `models pull` downloads."""


def dependents(model: BaseModel) -> list[BaseModel]:
    """The models that need this one."""
    return [other for other in BASE_MODELS.values() if model.name in other.needs]


def find(name: str, models: Path | None) -> Path | None:
    """Find the folder of a base model, complete with weights, configuration and vocabulary.

    Args:
        name: A key of `BASE_MODELS`, or `bigvgan`.
        models: The models folder; None to search only the caches of the libraries.

    Returns:
        None if there is no complete one.
    """
    model = _named_model(name)
    return next((folder for folder in candidate_folders(model, models) if not fault(model, folder)), None)


def require(name: str, models: Path | None) -> Path:
    """Find the folder of a base model, as `find`.

    Raises:
        EngineMissing: There is none; the message names incomplete ones, the hint says how to get it.
    """
    found = find(name, models)
    if found is not None:
        return found
    model = _named_model(name)
    unusable = [f"; {str(at)!r} is not usable: {fault(model, at)}" for at in candidate_folders(model, models)]
    hint = f"Run `{model.command}`: it asks you to accept the licence and downloads the model."
    if not model.files:
        files = " and ".join((*model.needed, *model.weights))
        hint = f"Download {files} of {model.repository} from the Hugging Face hub into {model.folder}/ in models/."
    raise EngineMissing(f"the model {model.title} is not on this machine{''.join(unusable)}", hint)


def _named_model(name: str) -> BaseModel:
    return BIGVGAN if name == BIGVGAN.name else BASE_MODELS[name]


def weights(name: str, models: Path | None) -> Path:
    """Find the file with the weights of a base model.

    Raises:
        EngineMissing: As `require`.
    """
    model = BASE_MODELS[name]
    found = _weights_in(require(name, models), model)
    if found is None:
        raise EngineMissing(f"the model {model.title} was removed just now", f"Run `{model.command}`.")
    return found


def candidate_folders(model: BaseModel, models: Path | None) -> Iterator[Path]:
    """Existing folders that may have a base model, in this order.

    In models/, under the name that `models pull` uses, then under other names, then inside the folder of a model that
    needs it; the cache of coqui-tts; the cache of the Hugging Face hub.
    """
    candidates = [] if models is None else _in_models(models, model)
    if model.coqui_folder is not None:
        candidates.append(_coqui_cache() / model.coqui_folder)
    for repository in (model.repository, *model.mirrors):
        candidates += _snapshots(_hub_cache() / f"models--{repository.replace('/', '--')}", model.revision)
    yield from filter(Path.is_dir, candidates)


def fault(model: BaseModel, folder: Path) -> str:
    """Why a folder can't be used as this base model, as a clause; "" if it can."""
    lacking = [name for name in model.needed if not _has_content(folder / name)]
    weights = _weights_in(folder, model)
    if weights is None:
        lacking.append(" or ".join(model.weights))
    if weights is None or lacking:
        return f"{', '.join(lacking)} missing or empty"
    try:
        status = weights.stat()
        return _fault_of_weights(model, weights, (status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError as error:
        return f"{weights.name} can't be read: {error.strerror}"


@lru_cache(maxsize=64)
def _fault_of_weights(model: BaseModel, weights: Path, _state: tuple[int, ...]) -> str:
    """Why a file can't be used as its weights; "" if it can. Cached until the file changes, as each job needs it."""
    from engines.checkpoints.architectures import recognise
    from engines.modelfiles import tensors

    try:
        found = recognise(tensors.read(weights))
    except tensors.UnreadableModelFile as error:
        return f"{weights.name} can't be used: {error.reason}"
    if not found.name.startswith(model.architecture):
        return f"{weights.name} is {found.name}"
    return found.fault if found.engine is not None else ""  # every vocoder has the fault that it is no speech model


def _weights_in(folder: Path, model: BaseModel) -> Path | None:
    matching = (path for pattern in model.weights for path in sorted(folder.glob(pattern)))
    return next(filter(_has_content, matching), None)


def _has_content(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _in_models(models: Path, model: BaseModel) -> list[Path]:
    """Its folders in models/, then those inside the folders of models that need it."""
    outer = (folder for dependent in dependents(model) for folder in _folders_in(models, dependent))
    return [*_folders_in(models, model), *(inner for folder in outer for inner in _folders_in(folder, model))]


def _folders_in(parent: Path, model: BaseModel) -> list[Path]:
    """Folders with one of the model's names, that of `models pull` first."""
    allowed = {_normalised(name) for name in (model.folder, *model.other_names)}
    try:
        names = sorted(name for name in os.listdir(parent) if _normalised(name) in allowed)
    except OSError:
        return []
    names.sort(key=lambda name: name != model.folder)
    return [parent / name for name in names]


def _normalised(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower())


def _coqui_cache() -> Path:
    """As `trainer.io.get_user_data_dir` of coqui-tts 0.28."""
    data = os.environ.get("TTS_HOME") or os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.path.expanduser(data)) / "tts"


def _hub_cache() -> Path:
    """As `constants.HF_HUB_CACHE` of huggingface_hub 1.33."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expanduser(os.path.expandvars(cache)))


def _snapshots(repository: Path, revision: str) -> list[Path]:
    """Revisions in the cache of the hub: `main` as last downloaded, `revision`, then the others."""
    try:
        revisions = sorted(os.listdir(repository / "snapshots"))
    except OSError:
        return []
    try:
        main = (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        main = ""
    revisions.sort(key=lambda name: (name != main, name != revision))
    return [repository / "snapshots" / name for name in revisions]
