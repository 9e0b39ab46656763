"""What makes a well-formed job one that can be done here: its engine, its language, its voice, its settings.

Each check names what it finds in `Problems`; none stops the others.
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
    char: f"; in double quotes `\\{escape}` is {what}, so write the name with `/`, or in single quotes"
    for char, escape, what in (
        ("\0", "0", "a zero"),
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
    """One job, looked at from all sides.

    Attributes:
        spec: The job; with findings, as far as it was understood.
        rules: What there is.
        findings: Where problems go.
        info: The job's engine; None when it names one that is not there.
        has_recordings: Whether any passage has a recording, or would if it were not wrong.
        has_default_voice: Whether the configuration has a voice for it.
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
        """Exactly one source of text, with something to speak in it, and not too much."""
        written = self.findings.tree.value
        given = [key for key in ("text", "text_file", "segments") if written.get(key) is not None]
        if len(given) > 1:
            self.findings.add((given[1],), f"a job takes either text or segments; found {listed(given)}")
        if not given:
            empty = [key for key in ("text", "text_file", "segments") if key in written]
            found = f"{empty[0]} is empty" if empty else "found neither"
            self.findings.add(tuple(empty[:1]), f"a job needs text or segments; {found}")
        if written.get("segments") == []:
            self.findings.add(("segments",), "found an empty list; allowed is a list of passages, each with its `text`")
        if self.spec.text is not None:
            self._speakable(("text",), self.spec.text)
        for index, segment in enumerate(self.spec.segments):
            self._speakable(("segments", index, "text"), segment.text)
        chars = len(self.spec.text or "") + sum(len(segment.text) for segment in self.spec.segments)
        if chars > self.rules.text_chars:
            most = self.rules.text_chars
            message = f"{chars} characters of text; at most {most} are allowed in one job (limits.text_chars)"
            self.findings.add(tuple(given[:1]), message)

    def _speakable(self, path: Path, text: str) -> None:
        for sentence in wrong_marks(text):
            self.findings.add(path, printable(sentence))
        if not has_words(text):
            message = "which has nothing to speak; at least one letter or digit is needed"
            self.findings.add(path, lambda: f"found {shown(text)}, {message}")

    def engine(self) -> None:
        name = self.spec.engine or self.rules.default_engine
        if name in self.rules.engines or self.findings.has(("engine",)):
            return
        if name in self.rules.planned:
            self.findings.add(("engine",), f"{printable(name)} is {NOT_YET}: {self.rules.planned[name]}")
            return
        known = sorted(self.rules.engines)
        message = f"there is no engine {shown(name)}; there is {listed(known)}" + nearest(name, known)
        self.findings.add(("engine",), message)

    def language(self, path: Path, tag: str | None) -> None:
        """The engine speaks it. The default language is checked where the job itself names none."""
        if tag is None and len(path) == 1 and not self.findings.has(path):
            tag = self.rules.default_language
        if tag is None or self.info is None or not self.info.languages:
            return
        if not self.rules.speaks(self.info.name, tag):
            name, languages = self.info.name, self.info.languages
            known = (
                f"it speaks {listed(languages)}" if len(languages) <= 20 else "`voicespool engines` lists those it does"
            )
            self.findings.add(path, lambda: f"{name} does not speak {shown(tag)}; {known}{nearest(tag, languages)}")

    def settings(self, path: Path, settings: Mapping[str, Any]) -> None:
        known = self.info is not None and not _unknown_engine(self.info)
        options = {option.name: option for option in self.info.options} if self.info is not None else {}
        for name, value in settings.items():
            if self.findings.full:
                break
            option = options.get(name)
            if option is not None and not fits(option, value):
                self.findings.add((*path, name), f"found {shown(value)}; allowed is {_range(option)}")
            elif option is None and not _is_plain(value):
                message = f"found {shown(value)}; allowed is a number, text, true or false"
                self.findings.add((*path, name), message)
            elif option is None and known and self.info is not None:
                has = f"those it has are {listed(options)}" if options else "it has none"
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
            self.findings.add((*place, "speaker"), lambda: _no_voice(str(part.speaker), speakers))
        if part.speaker_text is not None and len(part.speaker_text) > self.rules.speaker_text_chars:
            most = self.rules.speaker_text_chars
            message = f"{len(part.speaker_text)} characters; at most {most} are allowed (limits.speaker_text_chars)"
            self.findings.add((*place, "speaker_text"), message)
        if part.speaker_text is not None and not (part.speaker_wav or self.has_recordings):
            message = "says what is said in a recording, but there is no speaker_wav"
            self.findings.add((*place, "speaker_text"), message)

    def recordings(self) -> None:
        for place, part in self._parts():
            for name in part.speaker_wav:
                if fault := path_fault(name):
                    self.findings.add((*place, "speaker_wav"), f"found {shown(name)}; {fault}")
        count, most = len(self.spec.recordings()), self.rules.recordings
        if count > most:
            message = f"the job names {count} recordings; at most {most} are allowed (limits.recordings)"
            self.findings.add(("segments",) if self.spec.segments else ("speaker_wav",), message)

    def any_voice(self) -> None:
        """Each passage ends up with a voice where the engine has none of its own."""
        if self.info is None or not self.info.needs_voice or self.has_default_voice:
            return
        if self.findings.has(("speaker",), ("speaker_wav",)):
            return
        needs = f"{self.info.name} needs speaker_wav (a recording)"
        needs += ", and what is said in it" if self.info.needs_transcript else " or speaker"
        silent = [not (part.speaker or part.speaker_wav) for part in self.spec.passages()]
        if all(silent):
            self.findings.add(("speaker_wav",), needs)
            return
        for index in (index for index, is_silent in enumerate(silent) if is_silent):
            if self.findings.full:
                self.findings.more += 1
            elif not self.findings.has(("segments", index)):
                self.findings.add(("segments", index), f"{needs}, here or for the whole job")

    def later(self) -> None:
        """What is known and checked, but can't be done in this version."""
        spec, output = self.spec, self.spec.output
        if spec.text_file is not None:
            fault = path_fault(spec.text_file)
            self.findings.add(("text_file",), f"found {shown(spec.text_file)}; {fault}" if fault else NOT_YET)
        if output.format != "wav":
            self.findings.add(("output", "format"), f"{output.format} is {NOT_YET}; allowed is wav")
        if output.sample_rate is not None and self.info is not None:
            own_hz = self.info.sample_rate_hz
            if own_hz and output.sample_rate != own_hz:
                message = f"another rate than the engine's own is {NOT_YET}; {self.info.name} makes {own_hz}"
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
            self.findings.add(("metadata",), "a number in it is not finite, so that it can't be written as JSON")
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


def _no_voice(name: str, speakers: tuple[str, ...]) -> str:
    return f"there is no voice {shown(name)}; there is {listed(speakers)}{nearest(name, speakers)}"


def _unknown_engine(info: EngineInfo) -> bool:
    """Whether the engine is not installed, so that nobody can say what it takes."""
    return info.missing is not None and not info.options and not info.languages


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and abs(value) <= _HUGE)


def path_fault(name: str) -> str:
    """Why a job may not name a file so, "" when it may. Where it leads is looked up later, link by link."""
    if found := _CONTROL.search(name):
        return "control characters are not allowed in the name of a file" + _ESCAPES.get(found[0], "")
    if _ADDRESS.match(name):
        return "the name of a file is needed; nothing is downloaded"
    if _DRIVE.match(name):
        return "a path with a drive letter leads nowhere here; put the file into voices/ and give its name alone"
    if ".." in name.replace("\\", "/").split("/"):
        return "`..` is not allowed in the name of a file"
    if name.endswith("/") or not name.strip("./ "):
        return "the name of a file is needed, not of a folder"
    return ""


def fits(option: Option, value: object) -> bool:
    """Whether an option takes a value: its kind and bounds. A whole number is a number, true is none."""
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
