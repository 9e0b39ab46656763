"""Languages and speakers in eSpeak NG's data folder, read without loading the library.

`lang/FAMILY/TAG` is a language or an accent: its file name is a BCP-47 tag, and its `language` lines are further tags
for it, each with a priority (lower is closer; 5 by default). `voices/!v/NAME` is a speaker (the library calls it a
variant), for any language. Reading all files takes about 10 ms.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PRIORITY = 5

# Tags in use that the data files lack, and regions that are closer to another accent than to the language's default (as
# in CLDR's parent locales).
_MORE_TAGS = {
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
_MORE_TAGS |= {f"es-{region}": "es-419" for region in _LATIN_AMERICA.split(" ")}


@dataclass(frozen=True, slots=True)
class Voices:
    """Contents of the data folder.

    Attributes:
        files: Tag -> the library's name for it (`pt-BR` -> `roa/pt-BR`).
        nearest: Tag in lower case -> the tag in `files` to use for it.
        speakers: Name of a speaker -> `female`, `male` or "" where its file names neither; sorted.
    """

    files: Mapping[str, str]
    nearest: Mapping[str, str]
    speakers: Mapping[str, str]

    def match(self, tag: str) -> str | None:
        """The tag in `files` for a BCP-47 tag, by RFC 4647 lookup: without its last subtags until one matches."""
        parts = tag.replace("_", "-").lower().split("-")
        while parts:
            found = self.nearest.get("-".join(parts))
            if found:
                return found
            parts.pop()
            if parts and len(parts[-1]) == 1:  # a singleton (`x`) means nothing without what follows it
                parts.pop()
        return None


def read(data: Path) -> Voices:
    """Read an `espeak-ng-data` folder.

    Raises:
        OSError: It does not exist or is not readable.
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
    # Each of these overrides the ones before it: our own tags, those in files (the best priority last), file names.
    nearest = {tag: place for tag, place in _MORE_TAGS.items() if place in files}
    nearest |= {alias: tag for _, _, alias, tag in sorted(aliases, reverse=True)}
    nearest |= {tag.lower(): tag for tag in files}
    timbres = sorted(file for file in (data / "voices" / "!v").iterdir() if file.is_file())
    return Voices(files, nearest, {file.name: _sex(file) for file in timbres})


def _sex(timbre: Path) -> str:
    """What `gender` in its file says."""
    named = [words[1] for words in _lines(timbre, ("gender",)) if words[1] in ("female", "male")]
    return named[0] if named else ""


def _canonical(name: str) -> str:
    """With regions in capitals, as in RFC 5646; a few file names have them in lower case."""
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
    """Whether the pronunciation rules are there; the wheel lacks those of some languages, which are useless then."""
    named = [name for keyword, name, *_ in lines if keyword == "dictionary"]
    spoken = [name for keyword, name, *_ in lines if keyword == "language"]
    names = named or [tag.partition("-")[0], *(name.partition("-")[0] for name in spoken)]
    return any((data / f"{name}_dict").is_file() for name in names)
