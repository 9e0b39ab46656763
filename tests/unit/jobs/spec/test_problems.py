"""From what pydantic finds to sentences, for whatever model: each says what is wrong, where, and what is allowed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from files import yaml12
from files.tree import Bounds, Problem
from jobs.spec.job_spec import JobSpec
from jobs.spec.problems import NOT_YET, Allowed, Format, Problems, _section, _sections, _words, refused
from watcher.config.settings import Config


def _even(value: int) -> int:
    if value % 2:
        raise refused("{odd} numbers are nobody's")
    return value


def _later(value: object) -> object:
    raise refused(NOT_YET)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "green", "blue"] = "red"
    name: Annotated[str, Field(max_length=3), Allowed("text")]


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: Annotated[int, Field(ge=0), AfterValidator(_even), Allowed("an even number")] = 0
    names: Annotated[str | list[str], Allowed("a name, or a list of them")] = ""
    parts: Annotated[
        tuple[Annotated[Part, Allowed("a part")], ...], Field(strict=False), Allowed("a list of parts")
    ] = ()
    cover: Part | None = None
    later: Annotated[Any, AfterValidator(_later)] = None


FORMAT = Format(Whole, ("older",), lambda key: "write `size`" if key == "magnitude" else "")


def explained(text: str, most: int = 100) -> list[str]:
    (piece,) = yaml12.split(text)
    tree = yaml12.read(piece, Bounds())
    assert tree is not None
    problems = Problems(tree, most)
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(tree.value)
    FORMAT.explain(caught.value, tree.value, problems)
    return list(map(str, problems.problems()))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\nsize: x", 'line 2: size: found "x"; expected an even number'),
        ("size: -2", "line 1: size: found the number -2; expected an even number"),
        ("size: 3", "line 1: size: found the number 3; {odd} numbers are nobody's"),
        ("later: 3", "line 1: later: not available in this version"),
        ("names: {a: 1}", "line 1: names: found keys with values (a); expected a name, or a list of them"),
        ("cover: 3", "line 1: cover: found the number 3; expected keys with values"),
        ("cover: {}", "line 1: cover.name: missing; expected text"),
        ("cover: {name: 3}",
         "line 1: cover.name: found the number 3; expected text: put it in quotes"),
        ("cover: {name: a, colour: gren}",
         'line 1: cover.colour: found "gren"; expected red, green or blue; did you mean `green`?'),
        ("parts: {}", "line 1: parts: found an empty mapping; expected a list of parts"),
        ("parts:\n- name: a\n- 3", "line 3: parts[1]: found the number 3; expected a part"),
        ("parts:\n- name: abcd", 'line 2: parts[0].name: found "abcd"; expected text'),
        ("sise: 2", "line 1: sise: unknown key; did you mean `size`?"),
        ("oldre: 2", "line 1: oldre: unknown key; did you mean `older`?"),
        ("magnitude: 2", "line 1: magnitude: unknown key; write `size`"),
        ("colour: red", "line 1: colour: unknown key; it belongs under `parts`"),
        ("colours: red", "line 1: colours: unknown key; did you mean `parts.colour`?"),
        ("cover: {name: a, size: 2}", "line 1: cover.size: unknown key; it belongs at the top level"),
        ("cover: {name: a, zzz: 2}", "line 1: cover.zzz: unknown key; available here: colour and name"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_sentence(text: str, sentence: str) -> None:
    assert explained(text) == [sentence]


def test_all_are_explained_in_the_order_of_the_file_up_to_a_number() -> None:
    text = "zzz: 1\nparts: [{name: a, zzz: 1}, 3]\nsize: x\n"
    assert [sentence.partition(": ")[0] for sentence in explained(text)] == ["line 1", "line 2", "line 2", "line 3"]
    assert explained(text, most=2)[-1] == str(Problem("and 2 more like these"))


@pytest.mark.parametrize("root", [Config, JobSpec])
def test_every_key_says_what_it_takes(root: type[BaseModel]) -> None:
    """In `Allowed` or by its choices; sections and free mappings are keys with values, and keys of later versions
    take nothing.
    """
    later = {"days", "failed_days", "on_result"}
    silent = [
        name
        for _, section in _sections(root)
        for name, key in section.model_fields.items()
        if _words(key) == "keys with values" and not (_section(key) or name in later)
    ]
    assert silent == (["settings", "output"] if root is Config else [])
