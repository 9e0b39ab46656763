"""What daemon and worker say to each other survives the way, and nothing else is believed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from engines.checkpoints.reference import CheckpointRef
from engines.checkpoints.requirements import Requirement
from jobs.order import Fallback, JobLimits, Order, Rendering
from watcher.executors.local.messages import (
    Done,
    Failed,
    InvalidMessage,
    Loaded,
    Message,
    Progress,
    Ready,
    Stopped,
    event_from,
    event_line,
    message_from,
    order_from,
    order_line,
)

RENDERING = Rendering(
    files=("olá.wav",),
    engine={"name": "espeak"},
    voice={"speaker": None},
    audio=({"file": "olá.wav", "duration_s": 1.5},),
    segments=({"text": "Olá\u2028", "start_s": 0},),
    checks={"verdict": "ok", "reasons": []},
    timing={"load_s": 0.1},
    warnings=("slow",),
)


@pytest.mark.parametrize(
    "event",
    [
        Ready(),
        Loaded("id", 0.5),
        Loaded("id", 0),
        Progress("id", 1, 2, 0.5),
        Failed("id", "engine_failed", "it broke", "mend it", retryable=True),
        Stopped("id"),
        Done("id", RENDERING),
    ],
)
def test_an_event_crosses_as_one_line(event: Message) -> None:
    line = event_line(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert event_from(line.rstrip()) == event


ANNA = CheckpointRef(
    Path("/m/anna.pth"),
    "anna.pth",
    "xtts",
    "XTTS-v2",
    "",
    0.5,
    (Path("/m/anna.pth"),),
    (Requirement("xtts"),),
    (1, 2, 3),
)


@pytest.mark.parametrize(("checkpoint", "fallback"), [(ANNA, None), (None, Fallback("anna", "it is torn"))])
def test_an_order_crosses_as_one_line(checkpoint: CheckpointRef | None, fallback: Fallback | None) -> None:
    order = Order(
        "id",
        "hello",
        {"text": "a\nb", "metadata": {"x": math.inf}},
        "espeak",
        checkpoint,
        {"a.wav": "/a"},
        {},
        "/c",
        "/r",
        {"name": "cpu"},
        fallback,
        "whisper",
        JobLimits(audio_s=5.0),
        "/models",
    )
    line = order_line(order)
    assert line.count(b"\n") == 1
    assert order_from(message_from(line)) == order


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[1]",
        b"7",
        b"{}",
        b'{"kind": 1}',
        b'{"kind": "died"}',
        b'{"kind": "loaded"}',
        b'{"kind": "loaded", "load_s": 1}',
        b'{"kind": "loaded", "job_id": "id", "load_s": "soon"}',
        b'{"kind": "loaded", "job_id": "id", "load_s": true}',
        b'{"kind": "loaded", "job_id": "id", "load_s": NaN}',
        b'{"kind": "progress", "job_id": "id", "done": 1.5, "total": 2, "audio_s": 0}',
        b'{"kind": "failed", "job_id": "id", "code": "x", "message": "x", "hint": "x", "retryable": 1}',
        b'{"kind": "done", "job_id": "id", "rendering": {}}',
        b"[" * 100_000,
        b'{"kind": "loaded", "job_id": "id", "load_s": ' + b"9" * 10_000 + b"}",
    ],
)
def test_anything_else_is_not_a_message(line: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        event_from(line)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "..", "a\0", 7])
def test_a_file_outside_the_results_folder_is_not_believed(name: object) -> None:
    message = json.loads(event_line(Done("id", RENDERING)))
    message["rendering"]["files"] = [name]
    with pytest.raises(InvalidMessage):
        event_from(json.dumps(message).encode())


def test_what_a_newer_worker_adds_is_left_aside() -> None:
    assert event_from(b'{"kind": "loaded", "job_id": "id", "load_s": 1.5, "more": [1]}') == Loaded("id", 1.5)


def test_words_from_an_engine_become_printable() -> None:
    event = event_from(event_line(Failed("id", "engine_failed", "a\x1b[31m\nb", "c\r", retryable=False)))
    assert event == Failed("id", "engine_failed", "a\\x1b[31m\\x0ab", "c\\x0d", retryable=False)


def test_a_rendering_with_nan_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="JSON"):
        event_line(Loaded("id", float("nan")))
