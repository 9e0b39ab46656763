"""espeak-ng: real speech in all its languages, the same each time, from text that stays text."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from engines.base import Audio, Chunk, Device
from engines.errors import EngineError, EngineMissing, RequestRefused
from engines.espeak import engine as espeak_engine
from engines.espeak.engine import Espeak
from jobs.audio.wav import checked
from tests.rendered import rendered

ROOT = Path(__file__).parents[4]
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Espeak]:
    one = Espeak()
    one.load(None, Device())
    yield one
    one.close()


def speak(engine: Espeak, text: str, language: str = "en", **more: object) -> Audio:
    seed = more.pop("seed", 1)
    assert isinstance(seed, int)
    (audio,) = rendered(engine, Chunk(text, language, seed, **more))  # type: ignore[arg-type]
    return audio


def seconds(audio: Audio) -> float:
    return audio.samples.size / audio.rate_hz


def wait_until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, "the condition never came true"
        threading.Event().wait(0.005)


@pytest.mark.parametrize("languages", [Espeak.info().languages[part::8] for part in range(8)], ids=range(8))
def test_every_language_speaks(engine: Espeak, languages: tuple[str, ...]) -> None:
    """Each listed language makes plausible audio of Latin letters or numbers."""
    for language in languages:
        assert checked(speak(engine, "Hello 1, 2, 3, 10.", language), "Hello 1, 2, 3, 10.")[1] == [], language


def test_languages_differ(engine: Espeak) -> None:
    """Portuguese of Brazil, Portuguese of Portugal and English read one text three ways."""
    assert (
        len({speak(engine, "Bom dia, gente.", language).samples.tobytes() for language in ("pt-BR", "pt", "en")}) == 3
    )


@pytest.mark.parametrize(
    ("tag", "spoken"),
    [
        ("en", "en"),
        ("en-GB", "en"),
        ("en-AU", "en"),
        ("en-US", "en-US"),
        ("en-CA", "en-US"),
        ("en-GB-x-rp", "en-GB-x-rp"),
        ("pt", "pt"),
        ("pt-BR", "pt-BR"),
        ("pt-PT", "pt"),
        ("pt-AO", "pt"),
        ("fr", "fr"),
        ("fr-FR", "fr"),
        ("fr-CH", "fr-CH"),
        ("zh", "cmn"),
        ("zh-Hant-TW", "cmn"),
        ("zh-HK", "yue"),
        ("no", "nb"),
        ("nb-NO", "nb"),
        ("nn", "nb"),
        ("es-AR", "es-419"),
        ("es-ES", "es"),
        ("iw", "he"),
        ("hy-arevmda", "hyw"),
        ("sr-Latn", "sr"),
        ("de-x-anything", "de"),
        ("fo", None),
        ("xx", None),
        ("x-en", None),
    ],
)
def test_language_tags(tag: str, spoken: str | None) -> None:
    """People's tags find the nearest accent; a language without pronunciation rules in the wheel is not claimed."""
    assert Espeak.match_language(tag) == spoken


def test_over_a_hundred_languages() -> None:
    """As the README says."""
    assert len(Espeak.info().languages) > 100


@pytest.mark.parametrize("speaker", ["f3", "Annie", "Mr serious", "whisper", "klatt2", "ANNIE"])
def test_speakers_change_the_voice(engine: Espeak, speaker: str) -> None:
    """A timbre goes with any language, whatever the case of its name."""
    plain, changed = speak(engine, "Bom dia.", "pt-BR"), speak(engine, "Bom dia.", "pt-BR", speaker=speaker)
    assert plain.samples.tobytes() != changed.samples.tobytes()


@pytest.mark.parametrize("speaker", ["../../../etc/passwd", "f3+f4", "f3\n", "", "Ann"])
def test_only_listed_speakers_reach_the_library(engine: Espeak, speaker: str) -> None:
    """Names are looked up, never used as paths."""
    with pytest.raises(RequestRefused, match="unknown speaker"):
        speak(engine, "Hello.", speaker=speaker)


def test_a_language_it_does_not_speak_is_refused(engine: Espeak) -> None:
    """Only its own tags, never a path into the data folder."""
    for language in ("xx", "../voices/!v/f3", "pt-br"):
        with pytest.raises(RequestRefused, match="does not support the language"):
            speak(engine, "Hello.", language)


def test_options_do_what_they_say(engine: Espeak) -> None:
    """Twice the speed is about half the time; gaps lengthen; pitch and range change the sound alone."""
    text = "One two three four five six seven eight."
    normal = speak(engine, text)
    assert seconds(speak(engine, text, settings={"speed": 2.0})) < 0.65 * seconds(normal)
    assert seconds(speak(engine, text, settings={"speed": 0.5})) > 1.7 * seconds(normal)
    assert seconds(speak(engine, text, settings={"word_gap_ms": 300})) > seconds(normal) + 1.5
    assert speak(engine, text, settings={"speed": 1.0}).samples.tobytes() == normal.samples.tobytes()
    for settings in ({"pitch": 99}, {"pitch_range": 0}):
        assert speak(engine, text, settings=settings).samples.tobytes() != normal.samples.tobytes()


def test_the_seed_is_used_where_a_voice_has_breath(engine: Espeak) -> None:
    """Same seed, same bytes; another seed, another breath."""
    one, same, other = (
        speak(engine, "Hello.", speaker="whisper", seed=seed).samples.tobytes() for seed in (1, 1, 2**63 - 1)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("text", ["<break time='9s'/>one", "[[w'Vn]] one", "<speak>one</speak>", "&#49; one"])
def test_markup_is_read_aloud_not_obeyed(engine: Espeak, text: str) -> None:
    """Text from strangers is text: no SSML, no phoneme input."""
    assert seconds(speak(engine, text)) > seconds(speak(engine, "one")) + 0.3
    assert seconds(speak(engine, text)) < 8


def test_control_characters_command_nothing(engine: Espeak) -> None:
    """The library's own command sequences (\\x01 and a letter) arrive as a blank, NUL ends nothing."""
    plain = speak(engine, " 50S one two")
    assert speak(engine, "\x0150S one two").samples.tobytes() == plain.samples.tobytes()
    assert seconds(speak(engine, "one\0two three four")) > seconds(speak(engine, "one")) + 0.3


@pytest.mark.parametrize(
    "text",
    [
        "\ud800 one",
        "😀" * 300,
        "ﷺ" * 100,
        "a" * 5000,
        "1" * 400,
        "\u202eone",
        "%s%n%s%n",
        "़" * 400,
        "e" + "\u0301" * 400,
    ],
)
def test_strange_text_harms_nothing(engine: Espeak, text: str) -> None:
    """It is spoken or fails by itself, and the next text sounds as ever."""
    before = speak(engine, "Hello.").samples.tobytes()
    with contextlib.suppress(EngineError):
        speak(engine, text)
    assert speak(engine, "Hello.").samples.tobytes() == before


def test_a_crash_of_the_library_fails_its_chunk_alone() -> None:
    """Killed by a signal in the middle of the C code: an error with the signal's name, and speech goes on."""
    engine = Espeak()
    engine.load(None, Device())
    before, failures = speak(engine, "Hello."), []

    def long_text() -> None:
        try:
            speak(engine, "word " * 200_000)
        except EngineError as error:
            failures.append(str(error))

    thread = threading.Thread(target=long_text)
    try:
        assert engine._process is not None
        holder = psutil.Process(engine._process.pid)
        thread.start()
        wait_until(holder.children)
        holder.children()[0].send_signal(signal.SIGSEGV)
        thread.join(DEADLINE_S)
        assert failures
        assert "SIGSEGV" in failures[0]
        assert len(failures[0]) < 200
        assert speak(engine, "Hello.").samples.tobytes() == before.samples.tobytes()
    finally:
        engine.close()


def test_a_lost_process_is_an_engine_failure() -> None:
    """When the library's process is gone the chunk fails in words, and a new load mends it."""
    engine = Espeak()
    engine.load(None, Device())
    try:
        assert engine._process is not None
        engine._process.kill()
        engine._process.wait()
        with pytest.raises(EngineError, match="eSpeak NG"):
            speak(engine, "Hello.")
        engine.load(None, Device())
        assert speak(engine, "Hello.").samples.size
    finally:
        engine.close()


def test_a_stop_from_a_terminal_does_not_end_the_running_chunk(engine: Espeak) -> None:
    """Signals that a service manager or Ctrl-C sends to every process pass by; the daemon decides when it ends."""
    assert engine._process is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        engine._process.send_signal(number)
    assert speak(engine, "Hello.").samples.size
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_not_loaded_is_said() -> None:
    """Speaking before load is an error, not a crash."""
    with pytest.raises(EngineError, match="loaded"):
        speak(Espeak(), "Hello.")


def test_its_process_never_outlives_the_worker() -> None:
    """kill -9 of the process that loaded it ends the library's process too."""
    code = (
        "import os, signal; from engines.base import Device; from engines.espeak.engine import Espeak\n"
        "engine = Espeak(); engine.load(None, Device()); print(engine._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: gone(int(done.stdout)))


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_deep_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library cuts paths at 160 bytes; ours may be as long as the system allows, and no litter is left."""
    home = tmp_path.joinpath(*["a rather long folder name, é, repeated"] * 10, "espeakng_loader")
    shutil.copytree(Path(espeak_engine._home() or ""), home, copy_function=link_or_copy)
    monkeypatch.setattr(espeak_engine, "_home", lambda: home)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    engine = Espeak()
    engine.load(None, Device())
    try:
        assert seconds(speak(engine, "Hello.")) > 0.3
    finally:
        engine.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def test_the_surroundings_change_nothing(engine: Espeak, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another locale, another ESPEAK_DATA_PATH, another current folder: the same bytes."""
    for name, value in (("LC_ALL", "pt_BR.UTF-8"), ("ESPEAK_DATA_PATH", "/nowhere"), ("PYTHONPATH", "/nowhere")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    other = Espeak()
    other.load(None, Device())
    try:
        first, second = (speak(one, "Olá, são 3,5 km.", "pt-BR").samples.tobytes() for one in (other, engine))
        assert first == second
    finally:
        other.close()


def test_without_its_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing is a state with a cure, not an import error."""
    monkeypatch.setattr(espeak_engine, "_voices", lambda: None)
    assert "pip install 'espeakng-loader>=" in str(Espeak.info().missing)
    assert Espeak.match_language("en") is None
    with pytest.raises(EngineMissing) as caught:
        Espeak().load(None, Device())
    assert "pip install" in caught.value.hint


def test_a_library_that_does_not_load_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken wheel (no library, no data) is named as such."""
    monkeypatch.setattr(espeak_engine, "_home", lambda: tmp_path)
    with pytest.raises(EngineMissing, match="does not start"):
        Espeak().load(None, Device())


def test_checkpoints_are_refused() -> None:
    """espeak-ng has none; rendering without it would not be what was asked for."""
    with pytest.raises(RequestRefused, match="no checkpoints"):
        Espeak().load(Path("/models/best.pth"), Device())


def test_audio_is_full_but_not_broken(engine: Espeak) -> None:
    """At a good level, without samples stuck at full scale."""
    samples = speak(engine, "This is a longer sentence, spoken at the level that the library has by itself.").samples
    assert 0.3 < np.abs(samples).max() <= 1.0
    assert np.mean(np.abs(samples) > 0.999) < 0.001
