"""config.yaml as frozen data: every key, what it means, its unit and its default.

Every key is optional. Durations are seconds, sizes are bytes. Relative paths are relative to the config
file, or to the current folder when there is none. A key that is not implemented yet fails with an error that names it.
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
    """`~` and `~user` expanded; a path that the system can't open is refused here, with its line."""
    if "\0" in str(path):
        raise refused("expected a path without zero bytes")
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
    """A part of the configuration: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class Defaults(Section):
    """Values of job file keys that a job does not set itself."""

    engine: Name = "espeak"
    """Engine of jobs that name neither an engine nor a checkpoint."""
    language: Name = "en"
    """Language of jobs that name none: a language tag (BCP 47) such as pt-BR."""
    speaker: Name | None = None
    """Built-in voice of jobs that set neither speaker nor speaker_wav."""
    speaker_wav: Names | None = None
    """Reference recording or recordings under voices/, of jobs that set neither speaker nor speaker_wav."""
    speaker_text: Name | None = None
    """Transcript of the first recording in speaker_wav."""
    checkpoint: Name | None = None
    """Fine-tuned model, by its name under models/, of jobs that name no checkpoint and either no engine or the engine
    of this model."""
    on_checkpoint_error: Literal["fail", "base"] = "fail"
    """What to do when a checkpoint does not load: `fail` fails the job, `base` renders it with the base model."""
    seed: Seed | None = None
    """Seed of every job. Default: derived from the content of the job."""
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """Settings of the engine, as in a job file; `voicespool engines NAME` lists them."""
    output: Mapping[str, Any] = Field(default_factory=dict)
    """As in a job file: format, sample_rate (Hz)."""
    priority: Priority = 5
    """Priority of jobs: 0 (last) to 9 (first)."""
    timeout_s: Seconds | None = None
    """Longest rendering time of a job, in seconds (limits.render_s)."""


class ReadyConfig(Section):
    """When a file in the inbox counts as completely written."""

    quiet_s: Seconds = 1.0
    """Quiet time, in seconds: a file written in place is ready when it has not changed for this long."""
    network_quiet_s: Seconds = 5.0
    """Quiet time on network file systems, which show changes late, in seconds."""
    unparsable_grace_s: Seconds = 10.0
    """Grace period for a file that does not change and is not valid YAML or JSON, in seconds; then its job fails."""
    companions_s: Seconds = 60.0
    """How long a job waits for companion files, in seconds: recordings that it names and that are not there yet, and
    their transcripts if its engine needs them."""
    scan_s: Seconds = 10.0
    """Longest time between two scans of the whole inbox, in seconds. File events make the daemon look sooner."""
    on_duplicate: Literal["render", "skip"] = "render"
    """What to do with a file that was claimed within the last day and appears again with the same bytes and
    modification time, as some sync tools restore it: `render` renders it again, `skip` skips it. The log and
    `voicespool status` report both."""


class Limits(Section):
    """Limits, so that one job or one user can't stop the others."""

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
    """Most recordings that all jobs of one file may name together; a recording counts once for each job that names
    it."""
    job_bytes: Count = 512 * 1024 * 1024
    """Most disk space for one job file and its recordings until its jobs have ended, in bytes."""
    speaker_text_chars: Count = 4000
    """Longest transcript of a recording, speaker_text included, in characters."""
    audio_s: Seconds = 86400.0
    """Longest audio of one job, pauses included, in seconds."""
    render_s: Seconds = 172800.0
    """Longest rendering time of a job without timeout_s, in seconds."""
    read_s: Seconds = 10.0
    """Longest time to read and check one job file, in seconds of CPU time."""
    free_bytes: Count = 256 * 1024 * 1024
    """Disk space to keep free on the disk of the inbox, in bytes, or 5 % of the disk if that is less. Jobs wait if
    copies of their recordings would use it."""
    attempts: Count = 3
    """Most attempts of a job whose engine or worker fails."""
    retry_delays_s: Annotated[
        tuple[Annotated[float, Field(ge=0, le=86_400)], ...], Field(max_length=100), Allowed("a list of seconds")
    ] = (1.0, 10.0, 60.0)
    """Wait this long before each attempt after the first, in seconds; the last one before all later attempts. Other
    jobs run meanwhile."""
    daemon_deaths: Count = 10
    """Fail a job file without reading it after this many consecutive daemon crashes while reading it."""
    stall_s: Seconds = 300.0
    """Stop a render that makes no progress for this long, in seconds; the attempt counts as failed."""
    jobs_in_flight: Annotated[int, Field(ge=1, le=1000, strict=True), Allowed("a whole number from 1 to 1000")] = 64
    """Most jobs that are rendered together, if they need the same model. A job that is more urgent than all of them
    need not wait for a place."""
    stop_grace_s: Seconds = 30.0
    """Time for the running chunks to finish when the daemon is asked to stop, in seconds."""
    preempt: Flag = True
    """Put running jobs back if a job of higher priority needs another model; their finished chunks are kept."""
    affinity_s: Seconds = 300.0
    """Longest time that a job waits while jobs for the loaded model go first, in seconds."""


class DeviceConfig(Section):
    """Where engines run."""

    name: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$"), Allowed("auto, cpu, mps, cuda or cuda:N")
    ] = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto is the first GPU that torch supports, else the CPU. Engines without GPU
    code, such as espeak, always use the CPU."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Number format of the neural engines. auto is bfloat16 if that is faster, else float32. float16 needs a GPU."""
    profile: Literal["auto", "low_vram"] = "auto"
    """low_vram is for GPUs with 4 GB: f5 uses 16 bits, renders one sentence at a time, takes 16 evaluations if the job
    sets no nfe_step, and runs its vocoder on the CPU; xtts uses 16 bits. Engines switch to this profile when memory
    runs out."""
    idle_s: Seconds = 600.0
    """The worker ends after this time without work, in seconds, and frees memory and GPU."""
    fallback_cpu: Flag = False
    """Render on the CPU if the GPU has too little memory."""


class Results(Section):
    """How results are published."""

    on_existing: Literal["number", "replace"] = "number"
    """What to do when a result of that name exists: `number` publishes NAME~2, `replace` moves the old one aside
    first."""
    mode: Annotated[str, Allowed("octal digits in quotes")] | None = None
    """Permissions of results, octal and in quotes ("0640", "2775"). Folders get x wherever there is r; files lose x and
    the special bits. Without this key: the default ACL of the folder, else the daemon's umask."""
    group: Group | None = None
    """Group of results: a name or a number. The daemon's user must be a member of it. Without this key: the group of
    the folder if that is setgid, else the group of the daemon."""

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
    """Age in days at which results of done jobs are removed."""
    failed_days: Annotated[float | None, NotYet] = None
    """Age in days at which results of failed and cancelled jobs are removed."""


class Hooks(Section):
    """Commands to run. Not available in this version."""

    on_result: Annotated[str | tuple[str, ...] | None, NotYet] = None
    """Command to run for each result, with the result folder as its argument."""


class Config(Section):
    """config.yaml. After `load`, every path is absolute."""

    model_config = ConfigDict(title="voicespool configuration")

    inbox: Folder = Path("inbox")
    """Folder for job files; subfolders are read too."""
    outbox: Folder = Path("outbox")
    """Folder where results are published; not inside the inbox, and the inbox not inside it."""
    voices: Folder = Path("voices")
    """Folder of reference recordings; next to the inbox and the outbox, not inside."""
    models: Folder = Path("models")
    """Folder of fine-tuned and base models; next to the inbox and the outbox, not inside."""
    state_dir: Folder = Path("inbox/.voicespool")
    """State folder of the daemon, on the file system of the inbox. Default: .voicespool in the inbox. Next to the
    inbox, people and sync tools that write into the inbox can't change it. Inside the inbox its name must start with
    a dot."""
    allowed_roots: Annotated[tuple[Folder, ...], Allowed("a list of folders")] = ()
    """Further folders that paths in job files may lead to; all other paths outside the spool are refused."""
    transcribe: Literal["off", "whisper"] = "off"
    """What to do when an engine needs a transcript and none is given: `off` fails the job, `whisper` transcribes the
    recording with the model in models/whisper/."""
    defaults: Defaults = Defaults()
    """Values of job file keys that a job does not set itself."""
    ready: ReadyConfig = ReadyConfig()
    """When a file in the inbox counts as completely written."""
    limits: Limits = Limits()
    """Limits, so that one job or one user can't stop the others."""
    device: DeviceConfig = DeviceConfig()
    """Where engines run."""
    results: Results = Results()
    """How results are published."""
    retention: Retention = Retention()
    """Removal of old results. Not available in this version."""
    hooks: Hooks = Hooks()
    """Commands to run. Not available in this version."""

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
        ConfigError: All errors in it, each with its line and key.
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
    """The same, if no folder is inside another one that it must be apart from.

    Raises:
        ConfigError: One is.
    """
    problems = overlaps({name: getattr(config, name) for name in FOLDERS}, tree)
    if problems:
        raise complaints(path, problems)
    return config


def salvaged(path: Path | None) -> Config | None:
    """The folders that an invalid configuration names, so that a running daemon's state is found.

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
