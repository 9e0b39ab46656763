"""From an order to finished files, with real engines and real folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile

from engines import registry
from engines.base import Audio, Chunk, ChunkSource, Device, Engine, EngineClass, EngineInfo, Rendered
from engines.checkpoints.reference import CheckpointRef
from engines.errors import BadAudio, EngineError, EngineMissing, RequestRefused
from engines.f5.engine import F5
from jobs.order import JobLimits, Order, Progress, Rendering, RenderStopped
from jobs.render import spoken
from jobs.render.chunk_plan import ResolvedOrder
from jobs.render.preparation import prepare
from jobs.render.rendering import LoadedEngine, Work
from jobs.render.stream import Added, Stream
from jobs.results import worker_result
from jobs.results.manifest import AudioFile, Checks, SpokenChunk, SpokenSegment
from jobs.spec.job_spec import JobSpec
from tests import sounds
from tests.rendered import rendered

PLUGINS = Path(__file__).parents[3] / "plugins"
RATE_HZ = 16000
Load = Callable[[str], Engine]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Engines by name, those of the tests too, closed at the end."""
    monkeypatch.syspath_prepend(PLUGINS)
    registry.engines.cache_clear()
    loaded: list[Engine] = []

    def one(name: str) -> Engine:
        engine: Engine = registry.engines()[name]()
        engine.load(None, Device())
        loaded.append(engine)
        return engine

    yield one
    for engine in loaded:
        engine.close()
    registry.engines.cache_clear()


def perform(
    order: Order,
    engine: Engine,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
    **facts: object,
) -> Rendering:
    """What a worker does with an order; `facts` are what the engine said when it was loaded."""
    work, ended = Work(prepare(order, cast(EngineClass, engine)), 0.25), list[Rendering | BaseException]()

    def look() -> None:
        if stop():
            stream.stop(work.job_id, at_once=False)

    ready = LoadedEngine(engine, facts, 0.25)
    stream = Stream(ready, lambda work: report(work.progress), lambda _work, result: ended.append(result), look=look)
    work.load_finished()
    stream.add(work)
    stream.hear(Added(work))
    stream.run()
    (result,) = ended
    if isinstance(result, BaseException):
        raise result
    return result


class Desk:
    """Writes orders and has them rendered; each in a result folder of its own, with one folder of kept chunks."""

    def __init__(self, folder: Path, load: Load) -> None:
        self.folder, self.load = folder, load
        self.chunks = folder / "chunks"
        self.progress: list[Progress] = []
        self.journal = folder / "journal"
        self.count = 0

    def order(self, spec: Mapping[str, Any], **more: Any) -> Order:
        self.count += 1
        result = self.folder / f"result-{self.count}"
        result.mkdir()
        whole = JobSpec.model_validate_json(json.dumps(spec)).packed()
        engine = spec.get("engine", "faulty")
        parts = {"checkpoint": None, "recordings": {}, "transcripts": {}, **more}
        return Order("id", "hello", whole, engine, chunks_dir=str(self.chunks), result_dir=str(result), **parts)

    def render(self, spec: Mapping[str, Any], **more: Any) -> Rendering:
        order = self.order(spec, **more)
        made = perform(order, self.load(order.engine), report=self.progress.append)
        assert worker_result.checked(made, order).rendering == made
        assert sorted(made.files) == sorted(file.name for file in Path(order.result_dir).iterdir())
        return made

    def samples(self) -> np.ndarray:
        """Of the last result."""
        samples, _ = soundfile.read(str(self.folder / f"result-{self.count}" / "hello.wav"), dtype="int16")
        return np.asarray(samples)

    def spoken(self) -> list[str]:
        """Every text that the engine has begun to speak, in order."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line.partition(" ")[2] for line in lines]

    def settings(self, **more: object) -> dict[str, object]:
        return {"journal": str(self.journal), **more}


@pytest.fixture
def desk(tmp_path: Path, load: Load) -> Desk:
    return Desk(tmp_path, load)


def test_real_speech_from_text(desk: Desk) -> None:
    """espeak in Portuguese: a playable file, and everything the manifest wants to know about it."""
    made = desk.render({"text": "Olá, mundo. Tudo bem?", "language": "pt-BR", "engine": "espeak"})
    (audio,) = made.audio
    path = desk.folder / "result-1" / "hello.wav"
    assert made.files == ("hello.wav",)
    assert audio["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert audio["duration_s"] == pytest.approx(soundfile.info(str(path)).duration)
    assert 1.0 < audio["duration_s"] < 5.0
    assert -20 < audio["peak_dbfs"] <= 0
    assert made.checks == {"verdict": "ok", "reasons": []}
    assert made.engine["name"] == "espeak"
    assert made.engine["settings"]["speed"] == 1.0
    assert [chunk["text"] for chunk in made.chunks] == ["Olá, mundo.", "Tudo bem?"]
    assert made.voice == {"speaker": "roa/pt-BR"}
    assert made.warnings == ()


def test_what_it_answers_fits_the_manifest_and_the_pipe(desk: Desk) -> None:
    """JSON through and through, in the manifest's own shapes."""
    made = desk.render({"segments": [{"text": "One."}, {"text": "Two.", "pause_after_ms": 100}], "seed": 7})
    json.dumps(asdict(made), allow_nan=False)
    assert [AudioFile(**audio) for audio in made.audio]
    assert [segment.seed for segment in (SpokenSegment(**part) for part in made.segments)] == [7, 7]
    assert Checks(**made.checks).verdict == "ok"


def test_the_same_job_is_the_same_bytes(desk: Desk, tmp_path: Path, load: Load) -> None:
    """In another order of jobs, another folder, another instance of the engine."""
    spec = {"text": "One thing. Another thing.", "engine": "espeak", "speaker": "whisper"}
    (tmp_path / "other").mkdir()
    other = Desk(tmp_path / "other", load)
    other.render({"text": "Something else before.", "engine": "espeak", "language": "de"})
    assert desk.render(spec).audio[0]["sha256"] == other.render(spec).audio[0]["sha256"]


def test_a_seed_is_part_of_the_job(desk: Desk) -> None:
    """Another seed, another breath; the same seed again, the same."""
    spec = {"text": "One thing.", "engine": "espeak", "speaker": "whisper"}
    sums = [desk.render({**spec, "seed": seed}).audio[0]["sha256"] for seed in (1, 2, 1)]
    assert sums[0] == sums[2] != sums[1]


def test_pauses_are_as_long_as_they_say(desk: Desk) -> None:
    """Marks, sentence ends and segments: silence where it belongs, to the sample."""
    settings = {"audio_ms": 500}
    made = desk.render({"text": "[pause 250ms] A. [pause 1.5s] Beta. Gamma.", "settings": settings})
    samples = desk.samples()
    assert made.audio[0]["duration_s"] == pytest.approx(0.25 + 0.5 + 1.5 + 0.5 + 0.3 + 0.5)
    for start_s, end_s in ((0, 0.25), (0.75, 2.25), (2.75, 3.05)):
        assert not samples[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)].any()
    assert samples[round(2.3 * RATE_HZ) : round(2.7 * RATE_HZ)].any()


def test_segments_lie_where_the_manifest_says(desk: Desk) -> None:
    """Start and end of each, the pause that the user asked for, a natural one where he did not, none at the end."""
    segments = [{"text": "A.", "pause_after_ms": 1000}, {"text": "Beta. Gamma."}, {"text": "D."}]
    made = desk.render({"segments": segments, "settings": {"audio_ms": 500}})
    times = [(segment["start_s"], segment["end_s"]) for segment in made.segments]
    assert times == [(0, 0.5), (1.5, 2.8), (3.1, 3.6)]
    assert made.audio[0]["duration_s"] == 3.6


def test_chunks_lie_where_the_manifest_says(desk: Desk) -> None:
    """Each with its text and times, as often as it is spoken; the text of the whole job is not said again."""
    made = desk.render({"text": "A. [pause 1s] Beta. A.", "settings": {"audio_ms": 500}})
    assert [(chunk["text"], chunk["start_s"], chunk["end_s"]) for chunk in made.chunks] == [
        ("A.", 0, 0.5), ("Beta.", 1.5, 2.0), ("A.", 2.3, 2.8)
    ]  # fmt: skip
    assert made.chunks_file == ""
    assert "text" not in made.segments[0]
    assert 0 <= made.segments[0]["seed"] < 2**53


def test_many_chunks_are_a_file_of_their_own(desk: Desk) -> None:
    """Next to the audio, for any reader, and harmless in any terminal."""
    text = "Hey\u202e. " + " ".join(f"Number {number}." for number in range(500))
    for count, spec in ((500, text.partition(" ")[2]), (501, text)):
        made = desk.render({"text": spec, "settings": {"audio_ms": 10}})
        if count == 500:
            assert (len(made.chunks), made.chunks_file, made.files) == (500, "", ("hello.wav",))
    assert (made.chunks, made.chunks_file, made.files) == ((), "hello.chunks.json", ("hello.wav", "hello.chunks.json"))
    raw = (desk.folder / f"result-{desk.count}" / "hello.chunks.json").read_text("utf-8")
    chunks = json.loads(raw)["chunks"]
    assert [SpokenChunk(**chunk).text for chunk in chunks] == ["Hey.", *(f"Number {n}." for n in range(500))]
    assert chunks[-1]["end_s"] == made.audio[0]["duration_s"]
    assert raw.count("\n") == 503


def test_each_segment_says_who_spoke_it_in_which_language(desk: Desk) -> None:
    """A recording by its name, a voice as the job names it, the engine's own by the engine's name."""
    segments = [{"text": "Bom dia."}, {"text": "Hello.", "speaker": "f3", "language": "en"}, {"text": "[pause 1s]"}]
    made = desk.render({"segments": segments, "language": "pt-BR", "engine": "espeak"})
    who = [(part.get("text"), part.get("language"), part.get("speaker")) for part in made.segments]
    assert who == [("Bom dia.", "pt-BR", "roa/pt-BR"), ("Hello.", "en", "f3"), ("[pause 1s]", None, None)]
    assert made.voice == {"speaker": "roa/pt-BR"}
    (desk.folder / "0123").write_bytes(sounds.recording())
    more = [{"text": "One.", "speaker_wav": "ana.wav"}, {"text": "Two.", "speaker": "low"}, {"text": "Three."}]
    made = desk.render({"segments": more}, recordings={"ana.wav": str(desk.folder / "0123")})
    assert [(part.get("recordings"), part.get("speaker")) for part in made.segments] == [
        (["ana.wav"], None), (None, "low"), (None, "default")
    ]  # fmt: skip
    assert (made.voice["files"][0]["file"], made.voice["speaker"]) == ("ana.wav", "low")


def test_what_an_engine_was_told_of_a_recording_is_told(desk: Desk) -> None:
    """By the job, by a text next to the recording, by Whisper; where the engine needs to know."""
    names = ("ana.wav", "eva.wav", "rui.wav")
    segments = [{"text": "One.", "speaker_wav": name} for name in names]
    segments[0]["speaker_text"] = "Bom dia."
    order = desk.order(
        {"segments": segments, "language": "en", "engine": "f5"},
        recordings={name: str(desk.folder / name) for name in names}, transcripts={"eva.wav": "Boa tarde."},
    )  # fmt: skip
    info = replace(registry.engines()["f5"].info(), missing=None)
    spec = JobSpec.model_validate_json(json.dumps({"segments": segments}))
    resolved = ResolvedOrder(order, spec, info, {"": "en"}, dict.fromkeys(names, "0" * 64), {"rui.wav": "Boa noite."})
    used = {str(desk.folder / "eva.wav"): "Boa"}  # a recording that was too long, cut with its transcript
    assert [{**file, "sha256": ""} for file in spoken.voice(resolved, used)["files"]] == [
        {"file": "ana.wav", "sha256": "", "transcript": "Bom dia."},
        {"file": "eva.wav", "sha256": "", "transcript": "Boa"},
        {"file": "rui.wav", "sha256": "", "transcript": "Boa noite.", "transcribed_by": "whisper"},
    ]


def test_nothing_clicks_where_sound_meets_silence(desk: Desk) -> None:
    """Each chunk begins and ends at zero."""
    desk.render({"text": "A. [pause 1s] B.", "settings": {"audio_ms": 503.3}})
    samples = desk.samples().astype(int)
    assert np.abs(np.diff(samples)).max() < 0.55 * 32768 * 2 * np.pi * 1200 / RATE_HZ
    first_end = round(0.5033 * RATE_HZ)
    assert np.abs(samples[first_end - 3 : first_end]).max() < 400


def test_segments_have_voices_and_languages_of_their_own(desk: Desk) -> None:
    """The same words by two speakers in two languages are three different sounds."""
    segments = [{"text": "Bom dia."}, {"text": "Bom dia.", "speaker": "f3"}, {"text": "Bom dia.", "language": "pt-PT"}]
    made = desk.render({"segments": segments, "language": "pt-BR", "engine": "espeak"})
    samples = desk.samples()
    spans = [(round(s["start_s"] * 22050), round(s["end_s"] * 22050)) for s in made.segments]
    assert len({samples[start:end].tobytes() for start, end in spans}) == 3


def test_equal_chunks_are_spoken_once(desk: Desk) -> None:
    """A refrain costs nothing the second time, and sounds the same."""
    desk.render({"text": "Sing it. Verse. Sing it.", "settings": desk.settings()})
    assert sorted(desk.spoken()) == ["Sing it.", "Verse."]


def test_finished_chunks_are_not_rendered_again(desk: Desk) -> None:
    """After a failure in the middle only the rest is spoken; the file is the one of an undisturbed rendering."""
    counter = str(desk.folder / "counter")
    settings = desk.settings(fault="raise", only="Two", times=1, counter=counter)
    spec = {"text": "One. Two. Three.", "settings": settings}
    with pytest.raises(RuntimeError, match="device-side assert"):
        desk.render(spec)
    made = desk.render(spec)
    assert desk.spoken() == ["One.", "Two.", "Two.", "Three."]
    assert desk.progress[-3:] == [
        Progress(1, 3, 0.24),
        Progress(2, 3, 0.48),
        Progress(3, 3, 0.84),
    ]
    assert desk.render({**spec, "text": "One. Two. Three. "}).audio[0]["sha256"] == made.audio[0]["sha256"]


def test_a_damaged_chunk_is_rendered_again(desk: Desk) -> None:
    """A chunk that the disk spoiled does not get into the result."""
    spec = {"text": "One. Two.", "settings": desk.settings()}
    before = desk.render(spec).audio[0]["sha256"]
    damaged = sorted(desk.chunks.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"xx")
    assert desk.render(spec).audio[0]["sha256"] == before
    assert len(desk.spoken()) == 3


@pytest.mark.parametrize(
    "change",
    [{"speaker": "low"}, {"seed": 5}, {"language": "de"}, {"settings": {"audio_ms": 700}}],
    ids=lambda change: next(iter(change)),
)
def test_kept_chunks_serve_only_the_same_request(desk: Desk, change: dict[str, Any]) -> None:
    """Another voice, seed, language or setting is rendered anew."""
    spec = {"text": "One. Two.", "settings": {"audio_ms": 600}}
    desk.render(spec)
    desk.render({**spec, **change})
    assert len(list(desk.chunks.iterdir())) == 4


def test_another_recording_of_the_same_name_is_another_voice(desk: Desk) -> None:
    """Recordings count by their content, and the manifest names file and checksum."""
    recording = desk.folder / "0123"
    spec = {"text": "One. Two.", "speaker_wav": "ana.wav", "settings": desk.settings()}
    for seconds in (6.0, 7.0, 7.0):
        wav = sounds.save(desk.folder / "ana.wav", sounds.speech(seconds)).rename(recording)
        made = desk.render(spec, recordings={"ana.wav": str(recording)}, transcripts={"ana.wav": "hello"})
    assert desk.spoken() == ["One.", "Two."] * 2
    assert made.voice == {"files": [{"file": "ana.wav", "sha256": hashlib.sha256(wav.read_bytes()).hexdigest()}]}


def test_facts_are_complete_also_if_all_chunks_were_finished_before(desk: Desk) -> None:
    """An engine may know some only at the end of `render`; what it says later is of other jobs."""
    facts: dict[str, object] = {"device": "cuda"}

    class Late:
        """Knows the digest of its model late."""

        def __init__(self, engine: Engine) -> None:
            self.engine = engine

        def render(self, chunks: ChunkSource) -> Iterator[Rendered | None]:
            yield from self.engine.render(chunks)
            facts["sha256"] = "abc"

    engine = desk.load("faulty")
    for _ in range(2):
        order = desk.order({"text": "One. Two."})
        work, ended = Work(prepare(order, cast(EngineClass, engine))), list[Rendering | BaseException]()
        work.load_finished()
        ready = LoadedEngine(cast(Engine, Late(engine)), facts)
        stream = Stream(ready, lambda _work: None, lambda _work, result: ended.append(result))  # noqa: B023
        stream.add(work)
        stream.hear(Added(work))
        stream.run()
    (made,) = ended
    assert isinstance(made, Rendering)
    facts["device"] = "cpu"
    assert (made.engine["device"], made.engine["checkpoint"]) == ("cuda", {"name": None, "sha256": "abc"})


def test_urgent_chunks_are_those_of_more_urgent_jobs(desk: Desk) -> None:
    asked: list[list[str]] = []

    class Asking:
        """Takes one chunk, then asks for more urgent ones before it renders."""

        def render(self, chunks: ChunkSource) -> Iterator[Rendered]:
            taken = list(chunks.take(1))
            if not asked:
                add("3", "Four. Five.", 9)
                add("4", "Six.", 7)
            for _ in range(2):
                urgent = chunks.urgent(8)
                asked.append([chunk.text for _number, chunk in urgent])
                taken += urgent
            for number, _chunk in taken:
                yield number, Audio(np.full(1600, 0.1, np.float32), 16000)

    engine = desk.load("faulty")
    stream = Stream(LoadedEngine(cast(Engine, Asking()), {}), lambda _work: None, lambda _work, _result: None)

    def add(job_id: str, text: str, priority: int) -> None:
        order = replace(desk.order({"text": text, "priority": priority}), job_id=job_id)
        work = Work(prepare(order, cast(EngineClass, engine)))
        work.load_finished()
        stream.add(work)

    add("1", "One.", 5)
    add("2", "Two. Three.", 5)
    assert stream.urgent(8) == [], "the engine has no chunk that others could overtake"
    stream.run()
    assert asked[:2] == [["Four.", "Five.", "Six."], []]
    assert not any(asked[2:])


def test_the_only_chunk_of_a_job_goes_straight_into_its_file(desk: Desk) -> None:
    """Nothing is to be gained from keeping it: the file is written a moment later."""
    desk.render({"text": "One."})
    assert not desk.chunks.exists()


def test_a_recording_that_is_not_there_is_refused(desk: Desk) -> None:
    """In words, not as a traceback."""
    for recordings in ({}, {"ana.wav": str(desk.folder / "gone")}):
        with pytest.raises(RequestRefused, match="is missing"):
            desk.render({"text": "One.", "speaker_wav": "ana.wav"}, recordings=recordings)


def test_a_recording_is_listened_to_before_a_model_is_loaded(desk: Desk) -> None:
    """What is no recording is refused, by the name that the job has for it; what is a bad one is a warning."""
    copy = desk.folder / "0123"
    spec = {"text": "One.", "speaker_wav": "ana\x1b.wav"}
    for content, words in ((b"no sound at all", "ana"), (sounds.recording(0.1), "ana")):
        copy.write_bytes(content)
        with pytest.raises(RequestRefused, match=words) as refusal:
            prepare(desk.order(spec, recordings={"ana\x1b.wav": str(copy)}), registry.engines()["faulty"])
        assert "\x1b" not in refusal.value.message
    copy.write_bytes(sounds.recording(2.0))
    made = desk.render(spec, recordings={"ana\x1b.wav": str(copy)})
    assert len(made.warnings) == 1
    assert "ana\\x1b.wav" in made.warnings[0]
    assert desk.render(spec, recordings={"ana\x1b.wav": str(copy)}).warnings == made.warnings


with_f5 = pytest.mark.skipif(F5.info().missing is not None, reason="f5-tts is not installed (`make test-quick`)")


@with_f5
@pytest.mark.parametrize("job", [{"text": "One."}, {"segments": [{"text": "One.", "speaker_wav": "ana.wav"}]}])
def test_a_transcript_that_nobody_gives_is_asked_for_before_a_model_is_loaded(desk: Desk, job: dict[str, Any]) -> None:
    """Where the engine needs one: in the job, or beside the recording, of the first of several."""
    (desk.folder / "0123").write_bytes(sounds.recording())
    given = {"recordings": {name: str(desk.folder / "0123") for name in ("ana.wav", "rui.wav")}}
    spec = {**job, "language": "en", "engine": "f5", "speaker_wav": ["ana.wav", "rui.wav"]}
    engine = registry.engines()["f5"]
    with pytest.raises(
        RequestRefused,
        match=r"a transcript of ana\.wav: give `speaker_text`, or .* ana\.txt \(UTF-8\) next to the recording$",
    ):
        prepare(desk.order(spec, **given, transcripts={"rui.wav": "Bom dia."}), engine)
    prepared = prepare(desk.order(spec, **given, transcripts={"ana.wav": "Good day."}), engine)
    assert [line.chunk.speaker_text for line in prepared.plan if line.chunk] == ["Good day."]
    if "text" in job:
        prepare(desk.order({**spec, "speaker_text": "Good day."}, **given), engine)
    assert prepare(desk.order({**spec, "engine": "faulty"}, **given), registry.engines()["faulty"]).plan


def test_an_engine_that_can_not_run_here_is_missing_before_anything_else(desk: Desk) -> None:
    """Whatever the job asks for, how to install the engine comes first, and nothing is retried."""

    class Absent:
        @staticmethod
        def info() -> EngineInfo:
            return EngineInfo("absent", "Absent", "MIT", "absent", None, "pip install absent", 0, ())

    with pytest.raises(
        EngineMissing, match="absent is not installed on this machine; to install it: pip install absent"
    ) as missing:
        prepare(desk.order({"text": "One.", "engine": "absent", "language": "ja"}), cast(EngineClass, Absent))
    assert not missing.value.retryable


def test_what_the_engine_said_when_it_was_loaded_is_told_of_each_job(desk: Desk) -> None:
    """The model's settings lie between the options' defaults and the job's; its facts are gathered; it warns."""
    spec = {"text": "One.", "engine": "tuned", "speaker": "x", "settings": {"width": 0.9}}
    facts: dict[str, Any] = {
        "device": "cpu", "architecture": "tone", "sha256": "0" * 64, "step": 3, "validation_loss": 1.5,
        "settings": {"depth": 0.7, "width": 0.8}, "warnings": ["made up \x1b[31m"],
    }  # fmt: skip
    order = desk.order(spec, checkpoint=CheckpointRef(Path("/models/anna.pth"), "anna.pth"))
    made = perform(order, desk.load("tuned"), **facts)
    assert made.engine["settings"] == {"depth": 0.7, "width": 0.9}
    assert made.engine["checkpoint"] == {
        "name": "anna.pth", "architecture": "tone", "sha256": "0" * 64, "step": 3, "validation_loss": 1.5,
    }  # fmt: skip
    assert made.engine["device"] == "cpu"
    assert not {"warnings", "architecture", "sha256", "step"} & made.engine.keys()
    assert made.warnings == ("made up \\x1b[31m",)
    assert made.timing["load_s"] == 0.25
    base = perform(desk.order(spec), desk.load("tuned"), architecture="tone")
    assert base.engine["checkpoint"] == {"name": None, "architecture": "tone"}
    assert desk.render({"text": "One."}).engine["checkpoint"] is None


def test_another_checkpoint_is_another_chunk(desk: Desk) -> None:
    """What was kept is used for the same model alone: not for another one, not for one that was replaced."""
    spec = {"text": "One. Two.", "settings": desk.settings()}
    for file, state in (("a", (1,)), ("a", (1,)), ("a", (2,)), ("b", (2,))):
        desk.render(spec, checkpoint=CheckpointRef(Path(file), file, state=state))
    assert desk.spoken() == ["One.", "Two."] * 3


def test_a_language_may_have_shorter_chunks(desk: Desk) -> None:
    """Where an engine can't hold as much in one language as in the others."""
    words = "uma palavra e mais outra, " * 4
    spec = {"text": f"{words}fim.", "engine": "tuned", "speaker": "x"}
    lengths = []
    for language in ("pt", "en"):
        prepared = prepare(desk.order({**spec, "language": language}), registry.engines()["tuned"])
        lengths.append(max(len(line.chunk.text) for line in prepared.plan if line.chunk))
    assert lengths[0] <= 60 < lengths[1]


def test_an_engine_that_cannot_clone_goes_on_and_warns(desk: Desk) -> None:
    """espeak speaks with its own voice, the manifest says so, and the recording is not even opened."""
    made = desk.render({"text": "One.", "engine": "espeak", "speaker_wav": ["ana.wav", "b\x1b.wav"]})
    assert made.checks["verdict"] == "ok"
    assert len(made.warnings) == 1
    assert "ana.wav" in made.warnings[0]
    assert "\x1b" not in made.warnings[0]


def test_stop_comes_after_a_chunk_and_loses_nothing(desk: Desk) -> None:
    """What was finished is kept; the next attempt does the rest."""
    spec = {"text": "One. Two. Three.", "settings": desk.settings()}
    order = desk.order(spec)
    with pytest.raises(RenderStopped):
        perform(order, desk.load("faulty"), lambda: len(desk.spoken()) >= 2)
    assert desk.spoken() == ["One.", "Two."]
    assert list(Path(order.result_dir).iterdir()) == []
    desk.render(spec)
    assert desk.spoken() == ["One.", "Two.", "Three."]


def test_a_stop_after_the_last_chunk_finishes(desk: Desk) -> None:
    """Nothing is put off that is as good as done."""
    order = desk.order({"text": "One.", "settings": desk.settings()})
    assert perform(order, desk.load("faulty"), lambda: desk.spoken() == ["One."]).files == ("hello.wav",)


@pytest.mark.parametrize("fault", ["nan", "infinite", "silence", "empty", "stereo", "nothing"])
def test_bad_audio_is_an_error_and_never_kept(desk: Desk, fault: str) -> None:
    """NaN, infinity, silence, nothing: the chunk fails in words, and no file is made of it."""
    with pytest.raises(BadAudio, match="One"):
        desk.render({"text": "One.", "settings": {"fault": fault}})
    assert not desk.chunks.exists()
    assert list((desk.folder / "result-1").iterdir()) == []


def test_babble_is_doubtful(desk: Desk) -> None:
    """Two minutes for one word are published, and said; also when they were kept from an attempt before."""
    spec = {"text": "One. Two.", "settings": {"fault": "endless", "only": "Two"}}
    for _ in range(2):
        checks = desk.render(spec).checks
        assert checks["verdict"] == "doubtful"
        assert ["Two." in reason for reason in checks["reasons"]] == [True]


@pytest.mark.parametrize("text", ["...", "[pause 1s]", "— \u200b —"])
def test_nothing_to_speak_is_refused(desk: Desk, text: str) -> None:
    """A job without a letter or digit is told so."""
    with pytest.raises(RequestRefused, match="nothing to speak"):
        desk.render({"text": text})


def test_a_wrong_pause_mark_names_its_segment(desk: Desk) -> None:
    """The error shows the mark and where it stands."""
    with pytest.raises(RequestRefused, match=r"segments\[1\]\.text: '\[pause 5 min\]'"):
        desk.render({"segments": [{"text": "One."}, {"text": "Two. [pause 5 min]"}]})


def test_hours_of_silence_are_refused(desk: Desk) -> None:
    """A small job can't fill a disk with nothing; a long text with its natural pauses is no such job."""
    with pytest.raises(RequestRefused, match="pauses"):
        desk.render({"text": "One. [pause 60s] " * 61})
    desk.render({"text": "One. " * 50 + "[pause 60s] Two."})


def limited(**limits: float) -> dict[str, JobLimits]:
    return {"limits": JobLimits(**limits)}  # type: ignore[arg-type]


def test_no_job_is_longer_than_its_audio_may_be(desk: Desk) -> None:
    """Counted are pauses of any kind before anything is spoken, and then every chunk as often as it occurs."""
    settings = desk.settings(audio_ms=500)
    with pytest.raises(RequestRefused, match=r"limits\.audio_s \(60 s\): its pauses alone add up to 90 s"):
        desk.render({"text": "a\n- " * 300, "settings": settings}, **limited(audio_s=60.0))
    assert desk.spoken() == []
    with pytest.raises(RequestRefused, match=r"limits\.audio_s \(60 s\): 2 of 3 chunks") as refusal:
        desk.render({"text": "a\n- " * 150 + "One.", "settings": settings}, **limited(audio_s=60.0))
    assert desk.spoken() == ["a", "- a"]
    assert not refusal.value.retryable
    made = desk.render({"text": "a\n- " * 70 + "One.", "settings": settings}, **limited(audio_s=60.0))
    assert made.audio[0]["duration_s"] < 60


def test_list_items_without_words_take_no_time(desk: Desk) -> None:
    """However many there are; the pause stays that of one."""
    settings = {"audio_ms": 500}
    once = desk.render({"text": "One.\n- \nTwo.", "settings": settings})
    often = desk.render({"text": "One." + "\n- " * 10_000 + "\n\n* * *\n\n" * 1_000 + "\nTwo.", "settings": settings})
    assert often.audio[0]["duration_s"] - once.audio[0]["duration_s"] < 0.5


@with_f5
def test_a_transcript_has_a_longest_length(desk: Desk) -> None:
    """Whoever wrote it; before a model is loaded, and only where the engine needs it."""
    (desk.folder / "0123").write_bytes(sounds.recording())
    given: dict[str, Any] = {"recordings": {"ana\x1b.wav": str(desk.folder / "0123")}, **limited(speaker_text_chars=50)}
    spec = {"text": "One.", "language": "en", "speaker_wav": "ana\x1b.wav"}
    f5, faulty = registry.engines()["f5"], registry.engines()["faulty"]
    long = {"ana\x1b.wav": "word " * 20}
    with pytest.raises(
        RequestRefused, match=r"^speaker_text has more than the 50 characters that limits\.speaker_text_chars"
    ):
        prepare(desk.order({**spec, "engine": "f5", "speaker_text": "word " * 20}, **given), f5)
    with pytest.raises(RequestRefused, match=r"^the transcript of ana\\x1b\.wav has more than the 50 char"):
        prepare(desk.order({**spec, "engine": "f5"}, **given, transcripts=long), f5)
    prepared = prepare(desk.order({**spec, "engine": "faulty"}, **given, transcripts=long), faulty)
    assert [line.chunk.speaker_text for line in prepared.plan if line.chunk] == [None]


def test_a_language_it_does_not_speak_is_refused(desk: Desk) -> None:
    """By name."""
    with pytest.raises(RequestRefused, match="ja"):
        desk.render({"text": "One.", "language": "ja"})


def test_another_sample_rate_than_asked_for_is_refused(desk: Desk) -> None:
    """Never silently ignored; the engine's own is fine."""
    with pytest.raises(RequestRefused, match="16000"):
        desk.render({"text": "One.", "output": {"sample_rate": 44100}})
    assert desk.render({"text": "One.", "output": {"sample_rate": 16000}}).audio[0]["sample_rate"] == 16000


class Odd:
    """An engine of this test's own that answers with what it is given."""

    def __init__(self, answers: Sequence[tuple[int, Audio]], like: Engine) -> None:
        self.answers, self.like = answers, like

    def __getattr__(self, name: str) -> Any:
        return getattr(self.like, name)

    def render(self, chunks: ChunkSource) -> Iterator[tuple[int, Audio]]:
        numbers = [number for number, _chunk in chunks.take(100)]
        for index, audio in self.answers:
            yield numbers[index] if index < len(numbers) else index, audio


TONE = np.sin(np.arange(8000) / 10).astype(np.float32)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(0, Audio(TONE, 8000)), (1, Audio(TONE, 16000))], "different sample rates"),
        ([(5, Audio(TONE, 8000))], "not given: 5"),
        ([(0, Audio(TONE, 8000)), (0, Audio(TONE, 8000))], "not given: 1"),
        ([(0, Audio(TONE, 8000))], "nothing for 'Two.'"),
    ],
)
def test_an_engine_that_miscounts_is_caught(desk: Desk, answers: Sequence[tuple[int, Audio]], words: str) -> None:
    """Rates that differ, chunks that nobody asked for, chunks that never came."""
    engine: Any = Odd(answers, desk.load("faulty"))
    with pytest.raises(EngineError, match=words):
        perform(desk.order({"text": "One. Two."}), engine)


def test_chunks_may_come_in_any_order(desk: Desk) -> None:
    """Batched engines answer as they finish; the file has the order of the text."""
    spec = {"text": "One. Two.", "settings": {"audio_ms": 500}}
    forward = desk.render(spec).audio[0]["sha256"]
    faulty = desk.load("faulty")
    chunks = [Chunk(text, "en", 0, settings={"audio_ms": 500}) for text in ("One.", "Two.")]
    engine: Any = Odd([*enumerate(rendered(faulty, *chunks))][::-1], faulty)
    for kept in desk.chunks.iterdir():
        kept.unlink()
    order = desk.order(spec)
    assert perform(order, engine).audio[0]["sha256"] == forward


def test_a_name_that_is_not_text_is_a_name(desk: Desk) -> None:
    """File names of a share may be any bytes."""
    order = desk.order({"text": "One."})
    odd = Order(**{**{name: getattr(order, name) for name in Order.__slots__}, "stem": "h\udce9llo"})
    made = perform(odd, desk.load("faulty"))
    assert made.files == ("h\udce9llo.wav",)
    assert (Path(order.result_dir) / "h\udce9llo.wav").stat().st_size > 44
