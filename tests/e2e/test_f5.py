"""F5-TTS from the dropped job to the result: the real daemon, its worker, models of random weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soundfile

import tiny_f5 as builder
from engines.checkpoints.f5_layout import Sizes
from engines.f5.engine import OPTIONS
from tests import f5_models, tiny, tiny_whisper
from tests.sounds import recording
from tests.spooling import Spool, spooling, until

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

BASE = builder.KINDS["f5-base"]
WORDS = "Esta é a minha voz, como ela soa quando eu leio, com calma e sem pressa, um texto em voz alta."
NAME = "model_last.safetensors"
OF_CUSTOM_SIZE = "F5-TTS of custom size (DiT 128×3, text 32)"
FULL = pytest.param(BASE.full, "F5-TTS Base (DiT 1024×22, text 512)", id="full", marks=pytest.mark.long)


@pytest.fixture
def spool(tmp_path: Path, tiny_f5: Path) -> Iterator[Spool]:
    """A spool without any configuration; it has a voice, its transcript, and a vocoder."""
    with spooling(tmp_path / "spool") as one:
        one.config = {}
        place(one, tiny_f5.parents[1] / "vocos-mel-24khz")
        (one.folder / "voices").mkdir()
        (one.folder / "voices/rui.wav").write_bytes(recording())
        (one.folder / "voices/rui.txt").write_text(WORDS, "utf-8")
        yield one


def place(spool: Spool, model: Path) -> None:
    """A folder of models/ that is there already."""
    shutil.copytree(model, spool.folder / "models" / model.name, copy_function=os.link)


def as_it_is(state: State) -> State:
    return state


def telling(state: State) -> State:
    """As f5-tts saved models before 0.3.4, when all were v0."""
    import torch

    listening = {"mel_scale.fb": torch.rand(513, 100), "spectrogram.window": torch.hann_window(1024)}
    return state | {f"mel_spec.mel_stft.{name}": tensor for name, tensor in listening.items()}


def deaf(state: State) -> State:
    """To the text and to places, so that no flags change anything."""
    inward = "transformer.input_embed.proj.weight"
    asking = {name: tensor * 0 for name, tensor in state.items() if ".attn.to_q." in name}
    reading = state[inward].clone()
    reading[:, 200:] = 0  # behind the mels of noise and recording
    return state | asking | {inward: reading}


def torn(state: State) -> State:
    """As a training leaves it that has gone wrong."""
    return state | {"transformer.proj_out.bias": state["transformer.proj_out.bias"] / 0}


def reported(spool: Spool, change: Callable[[State], State] = as_it_is, sizes: Sizes = BASE.tiny) -> Path:
    """The file of the report that started voicespool: a fine-tune with 2545 symbols, averaged, without a vocab.txt.

    Args:
        change: Gets its tensors by the library's names.
        sizes: The report's are `BASE.full`.
    """
    f5_models.prepare()
    return kept(spool, change(builder.weights(sizes)))


def taught(spool: Spool, folder: Path, change: Callable[[State], State] = as_it_is) -> Path:
    """Such a file of a model that has really learnt something, as v1; and the recording that it knows, `bea.wav`."""
    f5_models.prepare()
    from safetensors.torch import load_file

    shutil.copy(folder / "bea.wav", spool.folder / "voices")
    (spool.folder / "voices/bea.txt").write_text(tiny.F5_SAID, "utf-8")
    return kept(spool, change(load_file(folder / "taught.safetensors")))


def kept(spool: Spool, state: State) -> Path:
    import torch
    from safetensors.torch import save_file

    path = spool.folder / "models" / NAME
    averaged = {f"ema_model.{name}": tensor for name, tensor in state.items()}
    save_file(averaged | {"initted": torch.tensor(True), "step": torch.tensor(200_000)}, path)
    return path


def job(**more: object) -> str:
    return json.dumps({
        "text": "Olá, este é um teste de síntese.", "language": "pt-BR", "checkpoint": "model_last",
        "speaker_wav": "rui.wav", "settings": {"nfe_step": 5}, **more,
    })  # fmt: skip


def done(spool: Spool, name: str) -> dict[str, Any]:
    manifest = spool.manifest(name)
    assert manifest["status"] == "done", manifest["error"]
    (audio,) = manifest["audio"]
    samples, rate_hz = soundfile.read(spool.outbox / name / audio["file"])
    assert (rate_hz, samples.size / rate_hz) == (24_000, pytest.approx(audio["duration_s"]))
    assert 1 < audio["duration_s"] < 10
    assert abs(samples).max() > 0.001
    return manifest


@pytest.mark.parametrize(("sizes", "architecture"), [pytest.param(BASE.tiny, OF_CUSTOM_SIZE, id="tiny"), FULL])
def test_the_reported_file_is_published_with_no_configuration_at_all(
    spool: Spool, sizes: Sizes, architecture: str
) -> None:
    """Its sizes, its vocabulary, and v0 by evidence in the file; the same job gives the same bytes."""
    path = reported(spool, telling, sizes)
    told = spool.command("checkpoints", "inspect", str(path)).stdout
    assert f"{architecture}, v0, vocabulary 2545 + 1, float32, EMA; loads as f5" in " ".join(told.split())
    for name in ("a", "b"):
        spool.drop(f"{name}.json", job())
    run = spool.once()
    assert run.returncode == 0, run.stderr
    manifest = done(spool, "a")
    engine = manifest["engine"]
    assert {key: engine[key] for key in ("name", "library", "fallback", "vocabulary")} == {
        "name": "f5", "library": "f5-tts", "fallback": None, "vocabulary": "vocab.txt",
    }  # fmt: skip
    assert engine["checkpoint"] == {
        "name": NAME, "sha256": sha256(path.read_bytes()).hexdigest(), "architecture": architecture, "step": None,
        "validation_loss": None,
    }  # fmt: skip
    assert engine["variant"] == {
        "name": "v0",
        "evidence": "it has mel_spec.mel_stft, which f5-tts saved only before 0.3.4, when all models were v0",
    }
    assert engine["settings"].keys() == {option.name for option in OPTIONS}
    assert {"nfe_step": 5, "cfg_strength": 2.0, "cross_fade_s": 0.15}.items() <= engine["settings"].items()
    voice = {"file": "rui.wav", "sha256": sha256(recording()).hexdigest(), "transcript": WORDS.strip()}
    assert manifest["voice"] == {"files": [voice]}
    assert manifest["checks"]["verdict"] == "ok"
    assert done(spool, "b")["audio"][0]["sha256"] == manifest["audio"][0]["sha256"]


def test_what_nothing_tells_is_measured_once(spool: Spool, taught_f5: Path) -> None:
    """With the job's own recording and transcript: the flags of the training win, and are known from then on."""
    taught(spool, taught_f5)
    spool.drop("a.json", job(speaker_wav="bea.wav"))
    assert spool.once().returncode == 0
    variant = done(spool, "a")["engine"]["variant"]
    assert variant["name"] == "v1"
    assert variant["v1"] < variant["guess"] < variant["v0"]
    assert variant["evidence"] == (
        f"the loss on the recording is {variant['v0']:.4f} as v0 and {variant['v1']:.4f} as v1"
    )
    (spool.folder / "voices/eva.wav").write_bytes(recording(4.0))
    spool.drop("b.json", job(speaker_wav="eva.wav", speaker_text=WORDS))
    assert spool.once().returncode == 0
    assert done(spool, "b")["engine"]["variant"] == variant


def test_what_is_too_close_to_call_is_settled_by_what_the_error_says(spool: Spool, taught_f5: Path) -> None:
    path = taught(spool, taught_f5, deaf)
    spool.drop("a.json", job(speaker_wav="bea.wav"))
    assert spool.once().returncode == 1
    error = spool.manifest("a.failed")["error"]
    assert (error["code"], error["retryable"]) == ("checkpoint_refused", False)
    words = (spool.outbox / "a.failed/ERROR.txt").read_text("utf-8")
    for said in (
        "can't determine whether model_last.safetensors is v0 or v1 of F5-TTS",
        "neither the file nor those next to it specify v0 or v1",
        "as v0 and",
        "as v1, which is too close",
        "If you know which it is, set `variant: v0` or `variant: v1` in model_last.yaml next to it.",
    ):
        assert said in " ".join(words.split())
    path.with_suffix(".yaml").write_text("variant: v1\n", "utf-8")
    assert spool.command("retry", "a").returncode == 0
    assert spool.once().returncode == 0
    assert done(spool, "a")["engine"]["variant"] == {
        "name": "v1",
        "evidence": "model_last.yaml next to it specifies v1",
    }


def test_a_model_for_bigvgan_speaks_with_it_where_the_user_has_it(spool: Spool) -> None:
    """Without its files the job fails and says which go where; with them it is published."""
    path = reported(spool, telling)
    path.with_suffix(".yaml").write_text("variant: v0\nvocoder: bigvgan\n", "utf-8")
    told = spool.command("checkpoints", "inspect", str(path)).stdout
    assert "vocoder bigvgan" in " ".join(told.split())
    nowhere = dict.fromkeys(("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"), "")
    spool.drop("a.json", job())
    assert spool.once(HOME=str(spool.folder), **nowhere).returncode == 1
    assert (spool.manifest("a.failed")["error"]["code"], spool.lines("worker_started")) == ("job_invalid", [])
    assert (
        "Download config.json and bigvgan_generator.pt of nvidia/bigvgan_v2_24khz_100band_256x from the Hugging Face "
        "hub into bigvgan_v2_24khz_100band_256x/ in models/."
    ) in " ".join((spool.outbox / "a.failed/ERROR.txt").read_text("utf-8").split())
    builder.build_bigvgan(spool.folder / "models/bigvgan_v2_24khz_100band_256x")
    assert spool.command("retry", "a").returncode == 0
    assert spool.once(HOME=str(spool.folder), **nowhere).returncode == 0
    assert done(spool, "a")["engine"]["vocoder"] == "bigvgan"


def cut_off(spool: Spool) -> None:
    os.truncate(reported(spool), 100_000)


def gone_wrong(spool: Spool) -> None:
    reported(spool, torn)


def undecided(spool: Spool) -> None:
    reported(spool)


BROKEN = [
    pytest.param(cut_off, "model_last.safetensors does not load: The file can't be used", id="cut off"),
    pytest.param(gone_wrong, "holds values that are not numbers", id="gone wrong"),
    pytest.param(undecided, "no better than an untrained baseline", id="undecided"),
]


@pytest.mark.parametrize(("broken", "reason"), BROKEN)
def test_instead_of_a_broken_file_the_base_model_speaks_where_the_job_says_so(
    spool: Spool, tiny_f5: Path, broken: Callable[[Spool], None], reason: str
) -> None:
    """Exactly as in a job without a checkpoint, with the reason in the manifest; where it does not, the job fails."""
    broken(spool)
    place(spool, tiny_f5.parent)
    more = {"engine": "f5", "seed": 7}
    spool.drop("a.json", job(on_checkpoint_error="base", **more))
    spool.drop("b.json", job(**more))
    spool.drop("c.json", job(checkpoint=None, **more))
    assert spool.once().returncode == 1
    assert spool.results() == ["a", "b.failed", "c"]
    manifest, base = done(spool, "a"), done(spool, "c")
    fallback = manifest["engine"]["fallback"]
    assert fallback["wanted"] == "model_last"
    assert reason in fallback["reason"]
    told = f"the base model is used instead of the checkpoint model_last: {fallback['reason']}"
    assert (manifest["warnings"], manifest["checks"]) == ([told], {"verdict": "doubtful", "reasons": [told]})
    assert manifest["request"]["checkpoint"] == "model_last"
    assert manifest["engine"]["checkpoint"] == base["engine"]["checkpoint"]
    assert manifest["audio"][0]["sha256"] == base["audio"][0]["sha256"]
    assert reason in json.dumps(spool.manifest("b.failed")["error"])


def test_what_a_job_for_f5_lacks_is_said_with_its_cure(spool: Spool) -> None:
    """A transcript, before anything is loaded; a vocoder, before a worker is started."""
    spool.config = {"ready": {"companions_s": 1.5}}
    reported(spool, telling)
    (spool.folder / "voices/eva.wav").write_bytes(recording())
    spool.drop("a.json", job(speaker_wav="eva.wav"))
    nowhere = dict.fromkeys(("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"), "")
    assert spool.once(HOME=str(spool.folder), **nowhere).returncode == 1
    (spool.folder / "models/vocos-mel-24khz").rename(spool.folder / "models/another")
    spool.drop("b.json", job())
    assert spool.once(HOME=str(spool.folder), **nowhere).returncode == 1
    wanted = {
        "a.failed": ("engine_refused", 1, "f5 needs a transcript of eva.wav: give `speaker_text`, or"),
        "b.failed": ("job_invalid", 0, "Run `voicespool models pull vocos`"),
    }
    assert spool.results() == list(wanted)
    for name, (code, attempts, said) in wanted.items():
        assert (spool.manifest(name)["error"]["code"], spool.manifest(name)["attempts"]) == (code, attempts)
        assert said in " ".join((spool.outbox / name / "ERROR.txt").read_text("utf-8").split())


def test_a_transcript_may_come_last(spool: Spool) -> None:
    """After the job and its recording, in whatever time that takes: the job waits for it and says so."""
    reported(spool, telling)
    spool.config = {"ready": {"companions_s": 600}}
    spool.start()
    spool.drop("a.json", job(speaker_wav="eva.wav"))
    spool.drop("eva.wav", recording())
    until(lambda: "waiting for the transcript eva.txt" in json.dumps(spool.status()), spool.log)
    assert spool.results() == []
    spool.drop("eva.txt", WORDS)
    until(spool.results, spool.log)
    assert done(spool, "a")["voice"]["files"][0]["file"] == "eva.wav"


def test_whisper_writes_down_what_is_said_where_the_configuration_says_so(spool: Spool) -> None:
    """Nothing is waited for, the manifest says whose words they are, and doctor looks for the model."""
    said = "Esta é a minha voz, como ela soa quando eu leio, com calma e sem pressa, um texto."
    spool.config = {"transcribe": "whisper"}
    reported(spool, telling)
    (spool.folder / "voices/eva.wav").write_bytes(recording())
    tiny_whisper.build(spool.folder / "models/whisper", said)
    spool.drop("a.json", job(speaker_wav="eva.wav"))
    spool.drop("b.json", job(speaker_wav="eva.wav", speaker_text=said))
    assert spool.once().returncode == 0
    heard, told = done(spool, "a"), done(spool, "b")
    assert heard["voice"]["files"][0] | {"sha256": ""} == {
        "file": "eva.wav", "sha256": "", "transcript": said, "transcribed_by": "whisper",
    }  # fmt: skip
    assert f"eva.wav has no transcript; Whisper heard: {said}" in heard["warnings"]
    assert told["voice"]["files"][0]["transcript"] == said
    assert "transcribed_by" not in told["voice"]["files"][0]
    assert heard["audio"][0]["sha256"] == told["audio"][0]["sha256"]
    assert "Whisper in" in spool.command("doctor").stdout
    (spool.folder / "models/whisper/model.safetensors").unlink()
    assert "no Whisper model for `transcribe: whisper` on this machine" in spool.command("doctor").stdout
