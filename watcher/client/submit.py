"""`voicespool submit` and `retry`: clients of the spool that need nothing but its folders."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.durable import sha256_of
from files.printable import printable
from jobs.errors import JobInvalid, SpoolError
from jobs.spec.parse import parse
from jobs.spec.rules import Rules
from jobs.spool import uploads
from watcher.client.drop import checked_name, drop
from watcher.client.results import Result, results_of
from watcher.client.validate import Checked
from watcher.config.job_rules import job_rules
from watcher.config.settings import Config

_MAX_SLUG = 40
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class Refused(SpoolError):
    """A command that can't do what it was asked for; nothing was changed."""

    code = "refused"
    exit_code = 1


@dataclass(frozen=True, slots=True)
class Dropped:
    """A job that was dropped.

    Attributes:
        source: Its file's path in the inbox.
        name: Its name: without extension, with its number when the file holds several.
        sha256: Of its bytes.
    """

    source: str
    name: str
    sha256: str


def submit_file(config: Config, checked: Checked, name: str) -> list[Dropped]:
    """Drop a job file under a checked name, after its recordings and the transcripts `NAME.txt` next to these.

    Recordings next to the file keep their names and go next to the job in the inbox, unless the same content is there
    already; they stay there. Those that the job names in an upload folder go into one, which the daemon removes.

    Raises:
        Refused: another recording of the same name is in the inbox.
        Hold: the inbox can't be written.
    """
    folder = name.rpartition("/")[0]
    uploaded = {upload for recording in checked.beside if (upload := uploads.folder_of(recording))}
    try:
        for recording, path in checked.beside.items():
            _bring(config, folder, recording, path)
            transcript = path.with_suffix(".txt")
            if transcript.is_file():
                _bring(config, folder, str(Path(recording).with_suffix(".txt")), transcript)
        source = drop(config.inbox, name, checked.path.suffix, checked.data)
    except BaseException:  # Ctrl-C too: they are of no use without their job
        for upload in uploaded:
            shutil.rmtree(config.inbox / folder / upload, ignore_errors=True)
        raise
    return [Dropped(source, job, digest) for job, digest in checked.jobs(source[: -len(checked.path.suffix)])]


def _bring(config: Config, folder: str, name: str, path: Path) -> None:
    target = config.inbox / folder / name
    if target.exists() and sha256_of(target) == sha256_of(path):
        return
    suffix = Path(name).suffix
    try:
        drop(
            config.inbox,
            f"{folder}/{name}".removeprefix("/").removesuffix(suffix),
            suffix,
            path.read_bytes(),
            only=True,
        )
    except FileExistsError:
        raise Refused(
            f"another {printable(name)} is already in that folder of the inbox",
            "Give the job a folder of its own with `--name FOLDER/NAME`, or put the recording into voices/.",
        ) from None


def text_job(keys: Mapping[str, Any]) -> bytes:
    """A job file from single values; what is None or empty is left out.

    Values are written as JSON, which YAML is a superset of, so that no text can mean anything else.
    """
    given = {key: value for key, value in keys.items() if value not in (None, (), [], {})}
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in given.items())
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", "\n".join(lines) + "\n").encode()


def name_from(text: str) -> str:
    """A name from a text's first words: letters and digits of any script, joined by hyphens."""
    words = re.findall(r"[^\W_]+", text)
    slug = ""
    for word in words:
        if slug and len(slug) + len(word) >= _MAX_SLUG:
            break
        slug = f"{slug}-{word}" if slug else word[:_MAX_SLUG]
    return slug.lower() or "text"


def _file_of(result: Result, name: str) -> str:
    """The name of a result's job file in the inbox: that of the result, unless the job names itself."""
    document = result.manifest.source.document or ""
    try:
        file = checked_name(result.manifest.source.file)
    except ValueError:
        return name
    if re.fullmatch(rf"{re.escape(file)}(-0*{document})?", printable(name)):
        return name
    return f"{file}-{document}" if document else file


@dataclass(frozen=True, slots=True)
class FailedResult:
    """The newest failed or cancelled result of a name, with what is to be run again.

    Attributes:
        name: Of its file, the path in the inbox without extension.
        result: It stays where it is.
        suffix, data: Of its job file.
        rules: What the daemon reads it by.
    """

    name: str
    result: Result
    suffix: str
    data: bytes
    rules: Rules

    @property
    def names(self) -> list[str]:
        """Names of the jobs in the file."""
        return [name for name, _digest in self._jobs(self.name)]

    def drop(self, config: Config) -> list[Dropped]:
        """Drop the job file under its name.

        Raises:
            Refused: A file of that name waits already.
            Hold: The inbox can't be written.
        """
        try:
            source = drop(config.inbox, self.name, self.suffix, self.data, only=True)
        except FileExistsError:
            raise Refused(
                f"a job file named {printable(self.name)} is already in the inbox",
                "`voicespool status` shows what it waits for.",
            ) from None
        return [Dropped(source, name, digest) for name, digest in self._jobs(self.name)]

    def _jobs(self, name: str) -> list[tuple[str, str]]:
        try:
            documents = parse(self.data, self.suffix, self.rules)
        except JobInvalid:
            documents = ()
        return Checked(self.result.folder, self.data, documents, (), {}).jobs(name)


def failed(config: Config, name: str) -> FailedResult:
    """Find what is to be run again.

    Raises:
        Refused: There is no failed or cancelled result of that name, or what it needs is gone.
    """
    if config.outbox.is_dir() and not os.access(config.outbox, os.R_OK | os.X_OK):
        raise Refused(f"this user can't read the outbox {printable(config.outbox)}", "Run this as a user who can.")
    unsuccessful = [result for result in results_of(config.outbox, name) if result.status in {"failed", "cancelled"}]
    if not unsuccessful:
        raise Refused(
            f"no failed or cancelled result of {printable(name)} in {printable(config.outbox)}",
            "`voicespool status` lists the last results; a name is the path in the inbox without extension.",
        )
    newest = unsuccessful[-1]
    job_file = newest.job_file()
    if job_file is None:
        raise Refused(
            f"{printable(newest.folder)} has no job file any more",
            "Submit the original job file.",
        )
    data = job_file.read_bytes()
    if any(not (config.inbox / name).with_name(folder).is_dir() for folder in uploads.named_in(data)):
        raise Refused(
            f"the recording of {printable(name)} was given by `submit --speaker-wav` and is not kept",
            "Submit the job again with its recording, or put the recording into voices/ and name it there.",
        )
    return FailedResult(_file_of(newest, name), newest, job_file.suffix, data, job_rules(config))
