"""Small YAML and JSON files beside models: read without building anything, within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.checkpoints import sidecar


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variant: v0", {"variant": "v0"}),
        ("variant: 'v0'  # as trained\n", {"variant": "v0"}),
        ("\ufeffvariant: v0", {"variant": "v0"}),
        ("model:\n  arch:\n    dim: 64\n    pe_attn_head: null\n  name: x",
         {"model": {"arch": {"dim": "64", "pe_attn_head": "null"}, "name": "x"}}),
        ('{"exp_name": "F5TTS_Base", "finetune": true}', {"exp_name": "F5TTS_Base", "finetune": "true"}),
        ("list: [a, {b: c}, [d]]\nafter: e", {"list": (), "after": "e"}),
        ("no: off", {"no": "off"}),
        ("a: !!python/object/apply:os.system ['true']", {"a": ()}),
        ("a: b\n---\nc: d", {"a": "b"}),
        ("empty:", {"empty": ""}),
        ("{}", {}),
    ],
)  # fmt: skip
def test_mappings_of_texts_are_read(tmp_path: Path, text: str, said: dict[str, Any]) -> None:
    """Values stay as they are written, lists are passed over, tags mean nothing."""
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    assert sidecar.read(path) == said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a mapping"),
        ("a", "not a mapping"),
        ("[a, b]", "not a mapping"),
        ("a: [", "not YAML"),
        ("a:\tb\n\tc: d", "not YAML"),
        ("\0", "not YAML"),
        ("a: 1\na: 2", "a duplicate key"),
        ("a: &x {b: c}\nd: *x", "aliases"),
        ("{a: 1, [b]: 2}", "a key that is not text"),
        ("{a: 1, {b: c}: 2}", "a key that is not text"),
        ("{a: " * 1000 + "b" + "}" * 1000, "nested too deep"),
        ("[" * 60_000, "nested too deep"),
        ("a: [" + "b," * 20_000 + "]", "too many values"),
        (" " * (sidecar.MAX_BYTES + 1), "too large"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """Broken files, bombs of aliases and of depth."""
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=why):
        sidecar.read(path)


def test_what_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(b"variant: \xff")
    with pytest.raises(ValueError, match="codec can't decode"):
        sidecar.read(path)
