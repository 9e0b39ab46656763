"""config.yaml as frozen data: every key, what it means, its unit and its default.

Every key is optional. Durations are seconds, sizes are bytes. Relative paths are relative to the config
file, or to the current folder when there is none. A key that is not built yet is known and fails by name.
"""

from __future__ import annotations

import contextlib
import grp
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from files import yaml12
from files.tree import Bounds, Tree, UnreadableText
from jobs.spec.job_spec import Priority, Seconds, Seed
from jobs.spec.problems import NOT_YET, Allowed, Format, Problems, refused
from watcher.config.complaints import EMPTY, MAX_BYTES, complaints, read_yaml
from watcher.config.layout import overlaps

STATE_FOLDER = ".voicespool"
FOLDERS = ("inbox", "outbox", "voices", "models", "state_dir")
CONFIG_NAME = "config.yaml"


def _not_yet(value: object) -> object:
    if value is not None:
        raise refused(NOT_YET)
    return value


def _at_home(path: Path) -> Path:
    """`~` and `~user` filled in; what the system could not open is refused here, with its line."""
    if "\0" in str(path):
        raise refused("allowed is a path without zero bytes")
    try:
        return path.expanduser()
    except RuntimeError:
        raise refused("this machine has no such user") from None


Folder = Annotated[Path, AfterValidator(_at_home), Allowed("the path of a folder")]
Count = Annotated[int, Field(gt=0, le=10**12, strict=True), Allowed("a whole number from 1 to 10**12")]
Flag = Annotated[bool, Field(strict=True), Allowed("true or false")]
Name = Annotated[str, Field(min_length=1, max_length=1000), Allowed("a name, as text")]
Names = Annotated[Name | tuple[Name, ...], Allowed("a name, as text, or a list of them")]
Group = Annotated[
    Annotated[int, Field(ge=0, lt=2**32 - 1, strict=True)] | Name,
    Allowed("the name of a group, or its number: a whole number from 0 to 4294967294"),
]
NotYet = AfterValidator(_not_yet)


class Section(BaseModel):
    """A part of the configuration: frozen, and nothing in it that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class Defaults(Section):
    """What a job gets that does not say otherwise: the job file's own keys."""

    engine: Name = "espeak"
    """Engine of jobs that name neither an engine nor a checkpoint."""
    language: Name = "en"
    """Language of jobs that name none: a BCP-47 tag such as pt-BR."""
    speaker: Name | None = None
    """Built-in voice, used where a job gives neither speaker nor speaker_wav."""
    speaker_wav: Names | None = None
    """Recording or recordings under voices/, used where a job gives neither speaker nor speaker_wav."""
    speaker_text: Name | None = None
    """What is said in the first default recording."""
    checkpoint: Name | None = None
    """A fine-tuned model, by its name under models/: of jobs that name none and whose engine is left out, or
    is the one that it is for."""
    on_checkpoint_error: Literal["fail", "base"] = "fail"
    """When a checkpoint does not load: fail the job, or render it with the base model."""
    seed: Seed | None = None
    """Seed of every job; left out, it follows from the content."""
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """The engine's own options, as in a job file; `voicespool engines` lists them."""
    output: Mapping[str, Any] = Field(default_factory=dict)
    """As in a job file: format, sample_rate (Hz). Out of the box loudness is left alone."""
    priority: Priority = 5
    """0 (last) to 9 (first)."""
    timeout_s: Seconds | None = None
    """Longest rendering of a job, in seconds; none by default."""


class ReadyConfig(Section):
    """When a file in the inbox counts as completely written."""

    quiet_s: Seconds = 1.0
    """A file written in place is ready when it has not changed for so long, in seconds."""
    network_quiet_s: Seconds = 5.0
    """The same on network file systems, which show changes late, in seconds."""
    unparsable_grace_s: Seconds = 10.0
    """How long a stable file that can't be read as YAML or JSON waits for more bytes, in seconds."""
    companions_s: Seconds = 60.0
    """How long a job waits for recordings that it names and that are not there yet, and for their transcripts where
    its engine needs them, in seconds."""
    scan_s: Seconds = 10.0
    """Longest time between two looks at the whole inbox, in seconds; events only make it sooner."""
    on_duplicate: Literal["render", "skip"] = "render"
    """When a file comes back that was claimed within the last day, with the same bytes and the same modification time,
    as some sync tools put it back: render it again, or skip it. Either way the log and `voicespool status` say so."""


class Limits(Section):
    """Bounds that keep one job, or one stranger, from stopping everything."""

    job_file_bytes: Count = 1024 * 1024
    """Largest job file, in bytes."""
    text_chars: Count = 1_000_000
    """Longest text of one job, in characters."""
    documents: Count = 1000
    """Most jobs in one file."""
    recording_bytes: Count = 100 * 1024 * 1024
    """Largest reference recording, in bytes."""
    recordings: Count = 100
    """Most different recordings that one job may name."""
    recording_uses: Count = 10_000
    """Most recordings that all jobs of one file may name together: each job counts those that it names."""
    job_bytes: Count = 512 * 1024 * 1024
    """Most bytes that the spool keeps for one job file until its jobs have ended, recordings included."""
    speaker_text_chars: Count = 4000
    """Longest speaker_text, and longest transcript of a recording, in characters."""
    audio_s: Seconds = 86400.0
    """Longest audio of one job, pauses included, in seconds."""
    render_s: Seconds = 172800.0
    """Longest rendering of a job without a timeout_s of its own, in seconds."""
    read_s: Seconds = 10.0
    """Longest time to read and check one job file, in seconds of processor time."""
    free_bytes: Count = 256 * 1024 * 1024
    """Space to leave free on the disk of the inbox, or a twentieth of the disk if that is less. Jobs whose recordings
    would not leave it wait."""
    attempts: Count = 3
    """How often a job is tried whose engine or worker fails."""
    daemon_deaths: Count = 10
    """A file that was being read when the daemon died so many times in a row is put aside as failed."""
    stall_s: Seconds = 300.0
    """A render without any progress for so long is killed, in seconds."""
    stop_grace_s: Seconds = 30.0
    """How long the running chunk may take to finish when the daemon is asked to stop, in seconds."""
    affinity_s: Seconds = 300.0
    """Longest time a job is passed over for others that suit the loaded model, in seconds."""


class DeviceConfig(Section):
    """Where engines run."""

    name: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$"), Allowed("auto, cpu, mps, cuda or cuda:N")
    ] = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto is the first card that torch has kernels for, else the CPU. Engines
    without GPU code, such as espeak, use the CPU in any case."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Arithmetic of engines that offer a choice. auto is bfloat16 where that is faster, else float32. float16 is
    for cards only."""
    profile: Literal["auto", "low_vram"] = "auto"
    """low_vram is for cards of 4 GB: f5 calculates in 16 bits and one sentence at a time, with 16 evaluations where a
    job says nothing, and its vocoder runs on the CPU; xtts calculates in 16 bits. Where memory runs out, engines go on
    under it by themselves."""
    idle_s: Seconds = 600.0
    """After so many seconds without work the worker ends and gives memory and GPU back."""
    fallback_cpu: Flag = False
    """Render on the CPU what does not fit into the GPU's memory."""


class Results(Section):
    """How results are published."""

    on_existing: Literal["number", "replace"] = "number"
    """When a result of that name exists: number makes NAME~2, replace moves the old one aside first."""
    mode: Annotated[str, Allowed("octal digits in quotes")] | None = None
    """Permissions, octal and in quotes ("0640", "2775"): folders get x wherever there is r, files lose x and
    the special bits. Default: as for any file made in that folder (its default ACL, else the daemon's umask)."""
    group: Group | None = None
    """Group of results: a name or a number. The user that the daemon runs as must be a member of it. Default: the
    group of the folder if that is setgid, else the daemon's own."""

    @field_validator("mode", mode="before")
    @classmethod
    def _octal(cls, value: object) -> object:
        if value is None:
            return None
        digits = value if isinstance(value, str) else ""
        if not 3 <= len(digits) <= 4 or set(digits) - set("01234567"):
            raise refused('allowed are three or four octal digits in quotes, such as "0640" or "2775"')
        if int(digits, 8) & 0o600 != 0o600:
            raise refused("the owner must be allowed to read and write")
        return digits

    @field_validator("group")
    @classmethod
    def _there(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, str):
            try:
                grp.getgrnam(value)
            except KeyError:
                raise refused("this machine has no such group") from None
        return value

    @property
    def gid(self) -> int | None:
        """Number of the group, or None for the process's own."""
        return grp.getgrnam(self.group).gr_gid if isinstance(self.group, str) else self.group

    @property
    def folder_mode(self) -> int | None:
        """Permission bits of result folders, or None for those of any new folder."""
        if self.mode is None:
            return None
        bits = int(self.mode, 8)
        return bits | (bits & 0o444) >> 2


class Retention(Section):
    """Removal of old results. Not available in this version."""

    days: Annotated[float | None, NotYet] = None
    """Age in days at which done results are removed."""
    failed_days: Annotated[float | None, NotYet] = None
    """The same for failed and cancelled ones."""


class Hooks(Section):
    """Commands of the operator's own. Not available in this version."""

    on_result: Annotated[str | tuple[str, ...] | None, NotYet] = None
    """Command run for each result, with the result folder as its argument."""


class Config(Section):
    """config.yaml. After `load`, every path is absolute."""

    model_config = ConfigDict(title="voicespool configuration")

    inbox: Folder = Path("inbox")
    """Where job files are dropped, in subfolders too."""
    outbox: Folder = Path("outbox")
    """Where results appear; never inside the inbox, nor the reverse."""
    voices: Folder = Path("voices")
    """Reference recordings; beside the inbox and the outbox, not inside."""
    models: Folder = Path("models")
    """Fine-tuned and base models; beside the inbox and the outbox, not inside."""
    state_dir: Folder = Path("inbox/.voicespool")
    """The spool's own state, on the inbox's file system. Default: .voicespool in the inbox. Next to the inbox
    it is out of reach of people and sync tools that write into the inbox. Inside the inbox it must lie under a name
    with a leading dot."""
    allowed_roots: Annotated[tuple[Folder, ...], Allowed("a list of folders")] = ()
    """Further folders that paths in job files may lead into; every other path outside is refused."""
    transcribe: Literal["off", "whisper"] = "off"
    """What is said in a recording where neither the job nor a text beside it tells, and the engine needs it: off fails
    the job, whisper listens, with a model in models/whisper/."""
    defaults: Defaults = Defaults()
    """What a job gets that does not say otherwise: the job file's own keys."""
    ready: ReadyConfig = ReadyConfig()
    """When a file in the inbox counts as completely written."""
    limits: Limits = Limits()
    """Bounds that keep one job, or one stranger, from stopping everything."""
    device: DeviceConfig = DeviceConfig()
    """Where engines run."""
    results: Results = Results()
    """How results are published."""
    retention: Retention = Retention()
    """Removal of old results. Not available in this version."""
    hooks: Hooks = Hooks()
    """Commands of the operator's own. Not available in this version."""

    @field_validator("defaults", "ready", "limits", "device", "results", "retention", "hooks", mode="before")
    @classmethod
    def _all_commented_out(cls, value: object) -> object:
        return {} if value is None else value


CONFIG_FILE = Format(Config)


def load(path: Path | None = None) -> Config:
    """Read the configuration. Writes nothing and makes no folder; `watcher.config.folders.prepare` does.

    Args:
        path: The file; None means ./config.yaml if it is there, else defaults around the current folder.

    Raises:
        ConfigError: everything that is wrong with it, each with its line and key.
    """
    if path is None:
        path = Path(CONFIG_NAME)
        if not path.exists():
            return apart(_absolute(Config(), Path.cwd()))
    tree = read_yaml(path)
    findings = Problems(tree, Bounds().problems)
    try:
        config = Config.model_validate(tree.value)
    except ValidationError as error:
        CONFIG_FILE.explain(error, tree.value, findings)
    if findings.found:
        raise complaints(path, findings.problems())
    return apart(_absolute(config, path.absolute().parent), tree, path)


def _absolute(config: Config, base: Path) -> Config:
    """Make the paths absolute (symlinks kept: what they lead to may change)."""

    def absolute(folder: Path) -> Path:
        return Path(os.path.abspath(base / folder))

    inbox = absolute(config.inbox)
    own_state = "state_dir" in config.model_fields_set
    return config.model_copy(
        update={
            "inbox": inbox,
            "outbox": absolute(config.outbox),
            "voices": absolute(config.voices),
            "models": absolute(config.models),
            "state_dir": absolute(config.state_dir) if own_state else inbox / STATE_FOLDER,
            "allowed_roots": tuple(absolute(root) for root in config.allowed_roots),
        }
    )


def apart(config: Config, tree: Tree = EMPTY, path: Path | None = None) -> Config:
    """The same, if its folders lie as they must.

    Raises:
        ConfigError: They do not.
    """
    problems = overlaps({name: getattr(config, name) for name in FOLDERS}, tree)
    if problems:
        raise complaints(path, problems)
    return config


def salvaged(path: Path | None) -> Config | None:
    """The folders that a wrong configuration names all the same, so that a running daemon's state is found.

    Returns:
        Those of its folders that are valid by themselves, defaults for everything else; None when the file can't be
        read at all.
    """
    path = Path(CONFIG_NAME) if path is None else path
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return None
    found: dict[str, Any] = {}
    for name, line in _FOLDER_LINE.findall(text):
        with contextlib.suppress(UnreadableText, StopIteration, ValidationError):
            tree = yaml12.read(next(iter(yaml12.split(f"{name}: {line}\n"))), Bounds())
            if tree is not None:
                found |= Config.model_validate(tree.value).model_dump(exclude_unset=True)
    return _absolute(Config.model_validate(found), path.absolute().parent)


_FOLDER_LINE = re.compile(rf"^({'|'.join(FOLDERS)}):[ \t]+(\S[^\r\n]*)$", re.MULTILINE)


def schema() -> dict[str, Any]:
    """The JSON Schema of config.yaml."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
