"""Checks that a well-formed job can be rendered here: its text, engine, language, voice and settings.

Each check adds its findings to `Problems`; none stops the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.base import EngineInfo, Option
from files.printable import printable
from files.tree import Path
from jobs.names import checked_name
from jobs.spec.job_spec import JobSpec, Segment
from jobs.spec.problems import NOT_YET, Problems, listed, nearest, shown
from jobs.spec.rules import Rules
from jobs.text.pieces import has_words, wrong_marks

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HUGE = 1e300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ESCAPES = {
    char: f"; in double quotes, `\\{escape}` is {what}: use `/`, or single quotes"
    for char, escape, what in (
        ("\0", "0", "a zero byte"),
        ("\a", "a", "a bell"),
        ("\b", "b", "a backspace"),
        ("\t", "t", "a tab"),
        ("\n", "n", "a new line"),
        ("\v", "v", "a vertical tab"),
        ("\f", "f", "a form feed"),
        ("\r", "r", "a carriage return"),
        ("\x1b", "e", "an escape character"),
        ("\x85", "N", "a new line"),
        ("\u2028", "L", "a line separator"),
        ("\u2029", "P", "a paragraph separator"),
    )
}


@dataclass(frozen=True, slots=True)
class Check:
    """The checks of one job.

    Attributes:
        spec: The job; if it has problems already, only its valid part.
        rules: The configuration and the engines.
        findings: Collects the problems.
        info: The job's engine; None if it is unknown.
        has_recordings: Whether any segment has a recording, be it an invalid one.
        has_default_voice: Whether the configuration has a voice for the job.
    """

    spec: JobSpec
    rules: Rules
    findings: Problems
    info: EngineInfo | None
    has_recordings: bool
    has_default_voice: bool

    def all(self) -> None:
        self.text()
        self.engine()
        for place, part in self._parts():
            self.language((*place, "language"), part.language)
            self.settings((*place, "settings"), part.settings)
            self.voice(place, part)
        self.recordings()
        self.any_voice()
        self.later()
        self.metadata()
        self.name()

    def _parts(self) -> list[tuple[Path, JobSpec | Segment]]:
        return [
            ((), self.spec),
            *((("segments", index), part) for index, part in enumerate(self.spec.segments)),
        ]

    def text(self) -> None:
        """Exactly one source of text, with something to speak, and not too long."""
        written = self.findings.tree.value  # not the spec: a wrong value was removed there
        sources = [key for key in ("text", "text_file", "segments") if written.get(key) is not None]
        if len(sources) > 1:
            self.findings.add((sources[1],), f"a job takes either text or segments; found {listed(sources)}")
        if not sources:
            empty = [key for key in ("text", "text_file", "segments") if key in written]
            why = f"{empty[0]} is empty" if empty else "found neither"
            self.findings.add(tuple(empty[:1]), f"a job needs text or segments; {why}")
        if written.get("segments") == []:
            self.findings.add(("segments",), "found an empty list; expected a list of segments, each with its `text`")
        if self.spec.text is not None:
            self._speakable(("text",), self.spec.text)
        for index, segment in enumerate(self.spec.segments):
            self._speakable(("segments", index, "text"), segment.text)
        chars = len(self.spec.text or "") + sum(len(segment.text) for segment in self.spec.segments)
        if chars > self.rules.text_chars:
            limit = self.rules.text_chars
            message = f"{chars} characters of text; at most {limit} are allowed in one job (limits.text_chars)"
            self.findings.add(tuple(sources[:1]), message)

    def _speakable(self, path: Path, text: str) -> None:
        for sentence in wrong_marks(text):
            self.findings.add(path, printable(sentence))
        if not has_words(text):
            message = "nothing to speak; at least one letter or digit is needed"
            self.findings.add(path, lambda: f"found {shown(text)}; {message}")

    def engine(self) -> None:
        name = self.spec.engine or self.rules.default_engine
        if name in self.rules.engines or self.findings.has(("engine",)):
            return
        if name in self.rules.planned:
            self.findings.add(("engine",), f"{printable(name)} is {NOT_YET}: {self.rules.planned[name]}")
            return
        known = sorted(self.rules.engines)
        message = f"unknown engine {shown(name)}; available: {listed(known)}" + nearest(name, known)
        self.findings.add(("engine",), message)

    def language(self, path: Path, tag: str | None) -> None:
        """The engine supports it. If the job names no language, the default is checked."""
        if tag is None and len(path) == 1 and not self.findings.has(path):
            tag = self.rules.default_language
        if tag is None or self.info is None or not self.info.languages:
            return
        if not self.rules.supports_language(self.info.name, tag):
            name, languages = self.info.name, self.info.languages
            known = (
                f"supported: {listed(languages)}"
                if len(languages) <= 20
                else "`voicespool engines` lists its languages"
            )
            self.findings.add(
                path, lambda: f"{name} does not support the language {shown(tag)}; {known}{nearest(tag, languages)}"
            )

    def settings(self, path: Path, settings: Mapping[str, Any]) -> None:
        known = self.info is not None and not _is_not_installed(self.info)
        options = {option.name: option for option in self.info.options} if self.info is not None else {}
        for name, value in settings.items():
            if self.findings.full:  # a file may have thousands, and each message searches for the nearest name
                break
            option = options.get(name)
            if option is not None and not fits(option, value):
                self.findings.add((*path, name), f"found {shown(value)}; expected {_range(option)}")
            elif option is None and not _is_plain(value):
                message = f"found {shown(value)}; expected a number, text, true or false"
                self.findings.add((*path, name), message)
            elif option is None and known and self.info is not None:
                has = f"available: {listed(options)}" if options else "it has no settings"
                message = f"{self.info.name} has no setting `{printable(name, 60)}`; {has}{nearest(name, options)}"
                self.findings.add((*path, name), message)

    def voice(self, place: Path, part: JobSpec | Segment) -> None:
        if part.speaker is not None and part.speaker_wav:
            message = "give either speaker (a built-in voice) or speaker_wav (a recording), not both"
            self.findings.add((*place, "speaker"), message)
        speakers = self.info.speakers if self.info is not None else ()
        if part.speaker is not None and self.info is not None and self.info.needs_transcript:
            message = f"{self.info.name} has no built-in voices; give speaker_wav, a recording"
            self.findings.add((*place, "speaker"), message)
        if part.speaker is not None and speakers and part.speaker not in speakers:
            self.findings.add((*place, "speaker"), lambda: _unknown_voice(str(part.speaker), speakers))
        if part.speaker_text is not None and len(part.speaker_text) > self.rules.speaker_text_chars:
            limit = self.rules.speaker_text_chars
            message = f"{len(part.speaker_text)} characters; at most {limit} are allowed (limits.speaker_text_chars)"
            self.findings.add((*place, "speaker_text"), message)
        if part.speaker_text is not None and not (part.speaker_wav or self.has_recordings):
            message = "speaker_text is a transcript, but no recording (speaker_wav) is given"
            self.findings.add((*place, "speaker_text"), message)

    def recordings(self) -> None:
        for place, part in self._parts():
            for name in part.speaker_wav:
                if fault := path_fault(name):
                    self.findings.add((*place, "speaker_wav"), f"found {shown(name)}; {fault}")
        count, limit = len(self.spec.recordings()), self.rules.recordings
        if count > limit:
            message = f"the job names {count} recordings; at most {limit} are allowed (limits.recordings)"
            self.findings.add(("segments",) if self.spec.segments else ("speaker_wav",), message)

    def any_voice(self) -> None:
        """Every segment has a voice, if the engine has no default voice."""
        if self.info is None or not self.info.needs_voice or self.has_default_voice:
            return
        if self.findings.has(("speaker",), ("speaker_wav",)):
            return
        needs = f"{self.info.name} needs speaker_wav (a recording)"
        needs += " and its transcript" if self.info.needs_transcript else " or speaker"
        voiceless = [not (part.speaker or part.speaker_wav) for part in self.spec.full_segments()]
        if all(voiceless):
            self.findings.add(("speaker_wav",), needs)
            return
        for index in (index for index, is_voiceless in enumerate(voiceless) if is_voiceless):
            if self.findings.full:
                self.findings.more += 1
            elif not self.findings.has(("segments", index)):
                self.findings.add(("segments", index), f"{needs}, here or for the whole job")

    def later(self) -> None:
        """Keys that are valid, but not available in this version."""
        spec, output = self.spec, self.spec.output
        if spec.text_file is not None:
            fault = path_fault(spec.text_file)
            self.findings.add(("text_file",), f"found {shown(spec.text_file)}; {fault}" if fault else NOT_YET)
        if output.format != "wav":
            self.findings.add(("output", "format"), f"{output.format} is {NOT_YET}; expected wav")
        if output.sample_rate is not None and self.info is not None:
            own_hz = self.info.sample_rate_hz
            if own_hz and output.sample_rate != own_hz:
                message = f"resampling is {NOT_YET}; the sample rate of {self.info.name} is {own_hz}"
                self.findings.add(("output", "sample_rate"), message)
        if output.loudness_lufs is not None:
            self.findings.add(("output", "loudness_lufs"), NOT_YET)
        if output.subtitles:
            self.findings.add(("output", "subtitles"), NOT_YET)

    def metadata(self) -> None:
        if not self.spec.metadata:
            return
        try:
            size = len(json.dumps(self.spec.metadata, allow_nan=False, ensure_ascii=False).encode())
        except ValueError:
            self.findings.add(("metadata",), "contains a number that is not finite, which JSON does not allow")
            return
        if size > self.rules.metadata_bytes:
            message = f"{size} bytes as JSON; at most {self.rules.metadata_bytes} are allowed"
            self.findings.add(("metadata",), message)

    def name(self) -> None:
        if self.spec.name is not None:
            try:
                checked_name(self.spec.name)
            except ValueError as error:
                self.findings.add(("name",), f"found {shown(self.spec.name)}; {error}")


def _unknown_voice(name: str, speakers: tuple[str, ...]) -> str:
    return f"unknown voice {shown(name)}; available: {listed(speakers)}{nearest(name, speakers)}"


def _is_not_installed(info: EngineInfo) -> bool:
    """Whether the engine is not installed and does not list its options."""
    return info.missing is not None and not info.options and not info.languages


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and abs(value) <= _HUGE)


def path_fault(name: str) -> str:
    """Why a file name is not allowed in a job; "" if it is. Links are resolved later."""
    if match := _CONTROL.search(name):
        return "control characters are not allowed in a file name" + _ESCAPES.get(match[0], "")
    if _ADDRESS.match(name):
        return "expected a file name; voicespool does not download files"
    if _DRIVE.match(name):
        return "drive letters are not supported; put the file into voices/ and give only its name"
    if ".." in name.replace("\\", "/").split("/"):
        return "`..` is not allowed in a file name"
    if name.endswith("/") or not name.strip("./ "):
        return "expected the name of a file, not of a folder"
    return ""


def fits(option: Option, value: object) -> bool:
    """Whether a value has the type of an option and is within its bounds. A float option takes an int, but no bool."""
    if option.kind is bool or isinstance(value, bool):
        return option.kind is bool and isinstance(value, bool)
    if option.kind is str:
        return isinstance(value, str)
    if isinstance(value, int) or (isinstance(value, float) and option.kind is float):
        low = -_HUGE if option.minimum is None else option.minimum
        high = _HUGE if option.maximum is None else option.maximum
        return low <= value <= high
    return False


def _range(option: Option) -> str:
    words = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}[option.kind]
    if option.minimum is not None and option.maximum is not None:
        return f"{words} from {option.minimum:g} to {option.maximum:g}"
    if option.minimum is not None:
        return f"{words}, {option.minimum:g} or more"
    return words if option.maximum is None else f"{words}, {option.maximum:g} or less"
