"""What every engine promises, whoever wrote it: one set of tests over all that are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines import registry
from engines.base import Audio, Chunk, ChunkList, Device, Engine, EngineClass
from engines.checkpoints import base_models
from engines.errors import RequestRefused
from jobs.audio.wav import checked
from tests.rendered import rendered
from tests.sounds import recording

ROOT = Path(__file__).parents[3]
PLUGINS = ROOT / "tests" / "plugins"
NAMES = sorted({*registry.engines(), "faulty", "instant", "tuned"})
NOISE = {"f5": 1e-5, "xtts": 1e-5}
"""How far two renderings of one chunk may lie apart. Sums of real numbers are rounded differently for one row than for
many, which is no matter for whoever listens; whoever does not calculate in batches gives the same bits."""
QUICK = {"f5": {"nfe_step": 4}}
"""Settings that spare time."""

pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def engine_class(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineClass]:
    monkeypatch.syspath_prepend(PLUGINS)
    registry.engines.cache_clear()
    yield registry.engines()[name]
    registry.engines.cache_clear()


@pytest.fixture
def device(name: str, request: pytest.FixtureRequest) -> Device:
    """With the base model where that would be gigabytes: a small one in its place."""
    if name not in base_models.BASE_MODELS:
        return Device()
    return Device(models=request.getfixturevalue(f"tiny_{name}").parents[1])


@pytest.fixture
def engine(engine_class: EngineClass, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Loaded with its base model."""
    info = engine_class.info()
    if info.missing is not None:
        pytest.skip(f"not installed here: {info.missing}")
    loaded = engine_class()
    loaded.load(None, request.getfixturevalue("device"))
    yield loaded
    loaded.close()


def same(engine: Engine, one: Audio, other: Audio) -> bool:
    """Whether two renderings are the same: bit for bit, or but for the noise of calculating."""
    if one.samples.shape != other.samples.shape:
        return False
    return float(np.abs(one.samples - other.samples).max()) <= NOISE.get(engine.info().name, 0.0)


@pytest.fixture
def sentences(engine: Engine, tmp_path: Path) -> list[Chunk]:
    """Some that it can speak, with the voice of a recording where it needs one."""
    info = engine.info()
    voice = tmp_path / "voice.wav"
    voice.write_bytes(recording())
    language = engine.match_language("en") or info.languages[0]
    texts = [f"This is sentence number {number}." for number in range(8)]
    recordings = (voice,) if info.needs_voice else ()
    said = (
        "Who says so much in no more than six seconds, speaks fast, and is soon done."
        if info.needs_transcript
        else None
    )
    settings = QUICK.get(info.name, {})
    return [Chunk(text, language, 7, recordings=recordings, speaker_text=said, settings=settings) for text in texts]


def test_it_knows_itself(name: str, engine_class: EngineClass) -> None:
    """Its name is the registry's; what it says is complete, sorted, without doubles."""
    info = engine_class.info()
    assert info.name == name
    assert info.title
    assert info.licence
    assert info.max_chars >= 50
    assert list(info.languages) == sorted(set(info.languages))
    assert len({option.name for option in info.options}) == len(info.options)
    if info.missing is None:
        assert info.version
        assert info.languages
        assert info.sample_rate_hz >= 8000


def test_defaults_of_options_are_allowed_values(engine_class: EngineClass) -> None:
    """Every option has help, a kind, and a default of that kind within its bounds."""
    for option in engine_class.info().options:
        assert option.help
        assert option.default is None or type(option.default) is option.kind
        if option.kind in (int, float) and option.default is not None:
            assert option.minimum is None or option.minimum <= float(option.default)
            assert option.maximum is None or float(option.default) <= option.maximum


def test_each_language_stands_for_itself(engine_class: EngineClass) -> None:
    """A listed language is matched by its own tag, any match is a listed one, nonsense is none."""
    info = engine_class.info()
    assert all(engine_class.match_language(tag) == tag for tag in info.languages)
    for tag in ("en", "en-AU", "pt-BR", "pt-PT", "zh-Hant-TW", "no", "fr-CA"):
        assert engine_class.match_language(tag) in {None, *info.languages}
    assert engine_class.match_language("qxz") is None


def test_asking_what_it_can_do_is_cheap(name: str) -> None:
    """The daemon asks without loading a model, an audio library, or numpy."""
    code = (
        "import json, sys; from engines import registry\n"
        f"engine = registry.engines()[{name!r}]; engine.info(); engine.match_language('pt-BR')\n"
        "print(json.dumps([name for name in ('numpy', 'torch', 'soundfile', 'onnxruntime') if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{ROOT}:{PLUGINS}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == []


def test_it_speaks(engine: Engine, sentences: list[Chunk]) -> None:
    """Plausible mono float32 audio at the rate it names, and nothing doubtful about it."""
    audio = rendered(engine, sentences[0])[0]
    assert audio.samples.dtype == np.float32
    assert audio.rate_hz == engine.info().sample_rate_hz
    assert checked(audio, sentences[0].text)[1] == []


def test_a_chunk_never_depends_on_its_neighbours(engine: Engine, sentences: list[Chunk]) -> None:
    """Alone, among others, before or after them: the same audio."""
    chunks = sentences[:4]
    together = rendered(engine, *chunks)
    backwards = rendered(engine, *reversed(chunks))[::-1]
    alone = [rendered(engine, chunk)[0] for chunk in chunks]
    for first, second, third in zip(together, backwards, alone, strict=True):
        assert same(engine, first, second)
        assert same(engine, first, third)


def test_two_instances_of_it_agree(
    engine: Engine, engine_class: EngineClass, device: Device, sentences: list[Chunk]
) -> None:
    """Another one, with another past, gives the same bits."""
    other = engine_class()
    other.load(None, device)
    try:
        rendered(other, *sentences[5:8])
        ours, others = rendered(engine, sentences[0])[0], rendered(other, sentences[0])[0]
        assert ours.samples.tobytes() == others.samples.tobytes()
    finally:
        other.close()


def test_nothing_to_render_is_nothing(engine: Engine) -> None:
    """No chunks, no audio, no error."""
    assert list(engine.render(ChunkList([]))) == []


def test_it_can_be_closed_twice_and_loaded_again(engine: Engine, device: Device, sentences: list[Chunk]) -> None:
    """What the worker does when engines take turns."""
    before = rendered(engine, sentences[0])[0]
    engine.close()
    engine.close()
    engine.load(None, device)
    assert rendered(engine, sentences[0])[0].samples.tobytes() == before.samples.tobytes()


def test_facts_of_loading_fit_into_the_manifest(engine: Engine, device: Device) -> None:
    """What `load` tells is JSON and names the device."""
    facts = engine.load(None, device)
    assert json.loads(json.dumps(facts))["device"]


def test_it_takes_the_longest_chunk_it_asks_for(engine: Engine, sentences: list[Chunk]) -> None:
    """`max_chars` characters at once are no trouble."""
    text = ("many words follow here " * 100)[: engine.info().max_chars].strip()
    assert rendered(engine, replace(sentences[0], text=text))[0].samples.size


def test_an_unknown_built_in_voice_is_refused_or_unused(engine: Engine, sentences: list[Chunk]) -> None:
    """An engine that has speakers refuses others by name; one that has none has nothing to refuse."""
    chunk = replace(sentences[0], recordings=())
    if engine.info().name in {"espeak", "xtts"}:
        with pytest.raises(RequestRefused, match="no such voice"):
            rendered(engine, replace(chunk, speaker="no such voice"))
    for speaker in engine.info().speakers[:3]:
        assert rendered(engine, replace(chunk, speaker=speaker))[0].samples.size
