"""The voices that espeak-ng's data folder describes, read without loading the library.

`lang/FAMILY/TAG` is one language or accent: its file name is a BCP-47 tag, its `language` lines are further tags
that it stands for, each with a priority (lower is nearer, 5 when left out). `voices/!v/NAME` is a speaker's timbre
that goes with any language. Reading all of it costs about ten milliseconds.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PRIORITY = 5

# Tags that people write and the data files do not name, and regions that are nearer to another accent than to the
# language's first (as in CLDR's parent locales).
_ALSO = {
    "en-ca": "en-US",
    "en-ph": "en-US",
    "en-jm": "en-029",
    "en-tt": "en-029",
    "in": "id",
    "iw": "he",
    "mo": "ro",
    "nn": "nb",
    "sh": "hr",
    "zh-hk": "yue",
    "zh-mo": "yue",
}
_LATIN_AMERICA = "ar bo cl co cr cu do ec gt hn mx ni pa pe pr py sv us uy ve"
_ALSO |= {f"es-{region}": "es-419" for region in _LATIN_AMERICA.split(" ")}


@dataclass(frozen=True, slots=True)
class Voices:
    """What the data folder holds.

    Attributes:
        files: Tag -> the name that the library takes for it (`pt-BR` -> `roa/pt-BR`).
        nearest: Tag in lower case -> the tag in `files` that speaks it.
        speakers: Name of a timbre -> `female`, `male` or "" where its file names neither; sorted.
    """

    files: Mapping[str, str]
    nearest: Mapping[str, str]
    speakers: Mapping[str, str]

    def match(self, tag: str) -> str | None:
        """The spoken tag nearest to a BCP-47 tag: itself, else with subtags taken off its end (RFC 4647 lookup)."""
        parts = tag.replace("_", "-").lower().split("-")
        while parts:
            found = self.nearest.get("-".join(parts))
            if found:
                return found
            parts.pop()
            if parts and len(parts[-1]) == 1:
                parts.pop()
        return None


def read(data: Path) -> Voices:
    """Read an `espeak-ng-data` folder.

    Raises:
        OSError: it is not there or not readable.
    """
    files: dict[str, str] = {}
    aliases: list[tuple[int, int, str, str]] = []
    for file in sorted((data / "lang").rglob("*")):
        if not file.is_file():
            continue
        lines = list(_lines(file))
        if not _has_dictionary(data, file.name, lines):
            continue
        tag = _canonical(file.name)
        files[tag] = file.relative_to(data / "lang").as_posix()
        aliases += [(priority, len(tag), alias, tag) for alias, priority in _languages(lines)]
    nearest = {tag: place for tag, place in _ALSO.items() if place in files}
    nearest |= {alias: tag for _, _, alias, tag in sorted(aliases, reverse=True)}
    nearest |= {tag.lower(): tag for tag in files}
    timbres = sorted(file for file in (data / "voices" / "!v").iterdir() if file.is_file())
    return Voices(files, nearest, {file.name: _sex(file) for file in timbres})


def _sex(timbre: Path) -> str:
    """What `gender` in its file says."""
    named = [words[1] for words in _lines(timbre, ("gender",)) if words[1] in ("female", "male")]
    return named[0] if named else ""


def _canonical(name: str) -> str:
    """Regions in capitals, as in RFC 5646; the files have a few that are not."""
    first, *rest = name.split("-")
    private = rest.index("x") if "x" in rest else len(rest)
    return "-".join(
        [first, *(part.upper() if len(part) == 2 and place < private else part for place, part in enumerate(rest))]
    )


def _lines(file: Path, keywords: Container[str] = ("language", "dictionary")) -> Iterator[list[str]]:
    with file.open(encoding="utf-8", errors="replace") as text:
        for line in text:
            words = line.split("//")[0].split()
            if len(words) >= 2 and words[0] in keywords:
                yield words


def _languages(lines: list[list[str]]) -> Iterator[tuple[str, int]]:
    for keyword, tag, *rest in lines:
        if keyword == "language":
            yield tag.lower(), int(rest[0]) if rest and rest[0].isdigit() else DEFAULT_PRIORITY


def _has_dictionary(data: Path, tag: str, lines: list[list[str]]) -> bool:
    """Some languages in the wheel lack their pronunciation rules; such a voice reads nothing right."""
    named = [name for keyword, name, *_ in lines if keyword == "dictionary"]
    spoken = [name for keyword, name, *_ in lines if keyword == "language"]
    names = named or [tag.partition("-")[0], *(name.partition("-")[0] for name in spoken)]
    return any((data / f"{name}_dict").is_file() for name in names)
