"""The doctor finds what is wrong, says how to cure it, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import tiny_f5
from engines.checkpoints.f5_layout import PUBLISHED, expected
from engines.device.torch_report import Gpu, TorchReport
from engines.registry import engines
from jobs.spool.lock import Lock
from tests import headers
from tests.hub import place, vocos_release
from watcher.config.folders import prepare
from watcher.config.settings import Config, DeviceConfig, load
from watcher.doctor import checks, torch_findings
from watcher.doctor.checks import as_json, examine, exit_code
from watcher.doctor.finding import Finding, fail, ok, warn


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "config.yaml").write_text("")
    config = load(tmp_path / "config.yaml")
    prepare(config)
    return config


def about(findings: list[Finding], what: str) -> list[Finding]:
    return [finding for finding in findings if finding.what == what]


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_healthy_machine_is_healthy_and_stays_as_it_is(config: Config, tmp_path: Path) -> None:
    """Renames, fsync, events and leases are really tried, and nothing is left of it."""
    before = tree(tmp_path)
    findings = list(examine(config))
    assert exit_code(findings) == 0, findings
    assert {"inbox", "outbox", "claims", "events", "leases", "engine espeak"} <= {one.what for one in findings}
    assert tree(tmp_path) == before


def test_every_trouble_comes_with_a_cure(tmp_path: Path) -> None:
    """Folders that are not there, an inbox that can't be made: words, a cure and the right exit code."""
    (tmp_path / "file").write_text("")
    (tmp_path / "config.yaml").write_text("inbox: file/inbox\ndefaults: {engine: xtts}")
    findings = list(examine(load(tmp_path / "config.yaml")))
    assert exit_code(findings) == 3
    assert all(finding.cure for finding in findings if finding.level != "ok")
    assert about(findings, "inbox")[0].level == "fail"
    assert about(findings, "outbox")[0].level == "warn"
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "file"]


def test_findings_are_json_too() -> None:
    """For programs: group, what, level, message, cure."""
    findings = [ok("a", "b"), fail("c", "d", "e", 4)]
    value = as_json(findings)
    assert value["ok"] is False
    assert value["findings"][1] == {"group": "", "what": "c", "level": "fail", "message": "d", "cure": "e"}


def test_the_gravest_failure_decides_the_exit_code() -> None:
    """Configuration before engines before the machine."""
    findings = [fail("a", "b", "c"), fail("a", "b", "c", 4), warn("a", "b", "c")]
    assert exit_code(findings) == 4
    assert exit_code([warn("a", "b", "c")]) == 0


def test_a_file_system_that_refuses_is_found(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of fsync ends neither the doctor nor stays unsaid."""

    def refuse(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checks, "fsync", refuse)
    refused = next(one for one in examine(config) if one.what == "outbox")
    assert refused.exit_code == 75
    assert "Input/output error" in refused.message


def test_a_running_daemon_is_told_and_not_disturbed(config: Config) -> None:
    """Who has the inbox; and the lock stays with it."""
    lock = Lock.acquire(config.state_dir / "lock")
    try:
        assert str(os.getpid()) in next(one for one in examine(config) if one.what == "daemon").message
        lock.check()
    finally:
        lock.release()


# --- models ----------------------------------------------------------------------------------------------------------


def test_model_files_that_will_not_load_are_counted(config: Config) -> None:
    """By their headers, before a job names them; a spool without models has nothing to say."""
    assert not list(checks._models(config))
    (config.models / "radio").mkdir(parents=True)
    for name in ("radio/best_model.pth", "a.pt", "b.safetensors", "c.pth"):
        (config.models / name).write_bytes(b"<html>404</html>")
    (finding,) = checks._models(config)
    assert finding.level == "warn"
    assert finding.message == "4 of 4 model files do not load: a.pt, b.safetensors, c.pth, …"
    assert "checkpoints list" in finding.cure


@pytest.mark.parametrize(("engine", "models"), [("xtts", {"xtts"}), ("f5", {"f5", "vocos"})])
def test_a_base_model_that_is_not_here(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, models: set[str]
) -> None:
    """Missed before a job needs it, with the command that brings it; so is what it can't speak without."""
    if engine not in engines() or engines()[engine].info().missing is not None:
        pytest.skip(f"needs {engine}")
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "TTS_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    monkeypatch.setattr(checks, "engines", lambda: {engine: engines()[engine]})
    found = {finding.what: finding for finding in checks._base_models(config)}
    assert set(found) == {f"model {name}" for name in models}
    for name in models:
        assert found[f"model {name}"].level == "warn"
        assert f"voicespool models pull {name}" in found[f"model {name}"].cure


def test_bigvgan_is_told_of_where_it_is_or_a_model_needs_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else hears of it; a checkpoint that can't speak without it gives the files that it lacks."""
    for variable in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))

    def told() -> list[Finding]:
        return about(list(checks._models(config)), "model bigvgan")

    headers.save(config.models / "ana.safetensors", headers.F5)
    assert not told()
    (config.models / "ana.yaml").write_text("vocoder: bigvgan\n")
    (missing,) = told()
    assert missing.level == "warn"
    assert missing.cure.startswith(
        "Download config.json and bigvgan_generator.pt of nvidia/bigvgan_v2_24khz_100band_256x"
    )
    folder = tiny_f5.build_bigvgan(config.models / "bigvgan")
    assert told() == [ok("model bigvgan", f"BigVGAN v2 (for F5-TTS) in {folder}")]
    (config.models / "ana.yaml").unlink()
    place(config.models / "vocos-mel-24khz", vocos_release())
    assert [(one.what, one.level) for one in checks._models(config)] == [
        ("checkpoints", "ok"),
        ("model bigvgan", "ok"),
    ]


# --- torch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        ("raise ImportError('libcuda.so.1: cannot open')", "libcuda.so.1"),
        ("import os; os.kill(os.getpid(), 11)", "does not work"),
        ("print('rubbish'); raise SystemExit(0)", "does not work"),
        ("import signal; signal.pause()", "no answer within 1 s"),
    ],
)
def test_a_broken_torch_does_not_break_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, words: str
) -> None:
    """It is asked in a process of its own, for so long and no longer."""
    (tmp_path / "torch.py").write_text(torch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if "pause" in torch:
        monkeypatch.setattr(torch_findings, "TORCH_WAIT_S", 1)
    found = list(torch_findings.examine(DeviceConfig()))
    assert [(finding.level, words in finding.message) for finding in found] == [("warn", True)], found


def test_the_real_torch_is_asked() -> None:
    """Whatever this machine has: torch, its companions, and what engines run on."""
    found = {one.what: one for one in torch_findings.examine(DeviceConfig(name="cpu", precision="float32"))}
    assert {"torch", "model libraries", "torchaudio", "gpu", "device"} <= set(found)
    assert "engines run on the CPU in float32" in found["device"].message
    assert "coqui-tts" in found["model libraries"].message
    assert found["torchaudio"].level == "ok"


def test_a_device_that_is_not_there_keeps_the_engines_from_working() -> None:
    """`cuda:99` in the configuration: words, a cure, the exit code of engines."""
    findings = list(torch_findings.examine(DeviceConfig(name="cuda:99")))
    failed = [one for one in findings if one.level == "fail"]
    assert ["there is no GPU cuda:99" in one.message for one in failed] == [True]
    assert failed[0].cure
    assert exit_code(findings) == 4


GIB = 1 << 30
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), True, 85_000_000_000, 84_000_000_000, "")
OLD = Gpu("NVIDIA GeForce GTX 1080", (6, 1), False, 8 * GIB, 7 * GIB, "CUDA error: no kernel image is available")
CPU_ONLY = TorchReport(
    "2.13.0+cpu", "the CPU only", "Torch not compiled with CUDA enabled", (), "whole", "cpu", "float32"
)
CUDA = TorchReport("2.15.0+cu132", "CUDA 13.2", "", (H100,), "whole", "cuda:0", "bfloat16", free=84_000_000_000)


def judged(report: TorchReport, what: str, driver_has: int = 0) -> list[Finding]:
    """What a report, sent as JSON like the real one, comes to."""
    return about(list(torch_findings.judge(TorchReport.from_json(json.dumps(asdict(report))), driver_has)), what)


def test_a_good_card() -> None:
    """Its name, its memory, and what engines do with it."""
    (card,), (device,) = judged(CUDA, "gpu"), judged(CUDA, "device")
    assert card.level == device.level == "ok"
    assert card.message == (
        "cuda:0 is NVIDIA H100 80GB HBM3 (sm_90), 78.2 of 79.2 GiB free; a test calculation was right"
    )
    assert device.message == "engines run on cuda:0 in bfloat16, 78.2 GiB free"


def test_a_card_without_kernels_is_named() -> None:
    """As a GTX 10xx under a new torch, which says that CUDA is there and fails at the first kernel."""
    report = replace(CUDA, gpus=(OLD, H100), device="cuda:1")
    old, new = judged(report, "gpu")
    assert (old.level, new.level) == ("warn", "ok")
    assert "cuda:0 is NVIDIA GeForce GTX 1080 (sm_61): this torch has no kernels" in old.message
    assert "torch 2.14" in old.cure


def test_a_card_that_torch_can_t_use() -> None:
    """The driver has one: torch is built for the CPU, or the driver is too old for it. No card at all is no trouble."""
    assert judged(CPU_ONLY, "gpu")[0].level == "ok"
    assert "built for CUDA" in judged(CPU_ONLY, "gpu", 1)[0].cure
    too_old = replace(CUDA, complaint="The NVIDIA driver on your system is too old (found version 11040).", gpus=())
    (finding,) = judged(replace(too_old, device="cpu"), "gpu", 2)
    assert finding.level == "warn"
    assert "too old (found version 11040)" in finding.message
    assert "Update NVIDIA's driver" in finding.cure


def test_a_card_that_calculates_nothing() -> None:
    """A card that engines would take, and that fails at the first calculation, keeps them from working."""
    report = replace(CUDA, gpus=(replace(H100, trouble="CUDA error: unspecified launch failure"),))
    assert "unspecified launch failure" in judged(report, "gpu")[0].message
    assert judged(report, "device")[0].level == "fail"


def test_too_little_memory_for_a_model() -> None:
    """Said before the first job fails of it."""
    assert [one.level for one in judged(CUDA, "memory")] == ["ok", "ok"]
    assert judged(CUDA, "memory")[1].message == (
        "F5-TTS Base in bfloat16 needs 0.4 GiB, 1.1 GiB with a long sentence and torch; 78.2 GiB are free"
    )
    small = judged(replace(CUDA, free=GIB), "memory")
    assert [(one.level, "1.0 GiB are free" in one.message, "low_vram" in one.cure) for one in small] == [
        ("warn", True, True),
        ("warn", True, True),
    ]
    middle = judged(replace(CUDA, free=3 * GIB // 2), "memory")
    assert [one.level for one in middle] == ["warn", "ok"]
    (here, _f5) = judged(replace(CPU_ONLY, free=GIB), "memory")
    assert (here.level, "low_vram" in here.cure) == ("warn", False)


@pytest.mark.parametrize(("bits", "itemsize"), [("32", 4), ("16", 2)])
def test_what_f5_is_said_to_take_of_a_card_follows_from_its_tensors(bits: str, itemsize: int) -> None:
    """Matrices in the precision of the arithmetic, the rest in float32; what time does to the norms stays away."""
    sizes = replace(PUBLISHED["F5-TTS Base"], vocabulary=2545)
    taken = 54_000_000  # the vocoder
    for name, shape in expected(sizes).items():
        is_exact = len(shape) == 1 or any(part in name for part in ("text_embed", "time_embed", "input_embed.proj"))
        if "norm.linear.weight" not in name and "norm_out.linear.weight" not in name:
            taken += math.prod(shape) * (4 if is_exact or "proj_out" in name else itemsize)
    need = torch_findings.NEEDS["F5-TTS Base"]["gpu", bits]
    assert need.weights == pytest.approx(taken, rel=0.01)
    row = 1024 * (12 + itemsize) + 1024 * (5 * itemsize + 8) + 4 * 64 + 1600  # `Backbone.bytes_for`, with guidance
    assert need.peak == pytest.approx(taken + 2 * 2640 * row, rel=0.02)


def test_a_torchaudio_for_another_torch() -> None:
    """Left out where it does not load is no trouble; anything else that is wrong with it is."""
    assert judged(replace(CUDA, torchaudio="without its compiled part"), "torchaudio")[0].level == "ok"
    assert judged(replace(CUDA, torchaudio="EngineMissing: no module"), "torchaudio")[0].level == "warn"
