"""Files that trainings write: for XTTS-v2 coqui's trainer, a web UI and an adapter; for F5-TTS its web page."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import tiny_f5
from engines.checkpoints import f5_vocabulary
from tests.sounds import recording

ORIGINALS = "XTTS_v2.0_original_model_files"
RUN = "GPT_XTTS_FT-March-03-2026_10+15AM-0000000"
STEP = 1200


def trainers(base: Path, training: Path) -> Path:
    """A run as written by coqui's trainer (`trainer.io.save_model`), with files that only training needs.

    Args:
        base: The folder of the model that the training starts from.
        training: The folder of all runs; must not exist.

    Returns:
        The folder of the run.
    """
    import torch

    run = training / RUN
    shutil.copytree(base, training / ORIGINALS, copy_function=os.link)
    for name in ("dvae.pth", "mel_stats.pth"):
        torch.save(
            {"codebook.embed": torch.zeros(2, 2)} if name == "dvae.pth" else torch.ones(80), training / ORIGINALS / name
        )
    run.mkdir()
    model = torch.load(base / "model.pth", weights_only=True)["model"]
    state = {f"xtts.{name}": tensor for name, tensor in model.items()}
    state |= {"dvae.codebook.embed": torch.zeros(2, 2), "torch_mel_spectrogram_dvae.mel_stats": torch.ones(80)}
    run_state = {
        "config": {"model": "xtts"},
        "scheduler": [{"last_epoch": 3}],
        "scaler": None,
        "epoch": 3,
        "date": "March 03, 2026",
    }
    optimizer = [{"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 5e-6, "params": [0]}]}]
    whole = {**run_state, "model": state, "optimizer": optimizer}
    best = {**whole, "step": STEP, "model_loss": {"train_loss": 2.25, "eval_loss": 2.5}}
    torch.save(best, run / f"best_model_{STEP}.pth")
    os.link(run / f"best_model_{STEP}.pth", run / "best_model.pth")
    torch.save(
        {**whole, "step": 10_000, "model_loss": {"train_loss": 2.0, "eval_loss": 3.0}}, run / "checkpoint_10000.pth"
    )
    (run / "config.json").write_text(json.dumps({"temperature": 0.85, "repetition_penalty": 2.0}))
    return run


def web_uis(run: Path, base: Path, ready: Path) -> Path:
    """The folder `ready` of xtts-finetune-webui, after its step "Optimize the model"."""
    import torch

    shutil.copytree(base, ready, copy_function=os.link)
    whole = torch.load(run / "best_model.pth", weights_only=True)
    del whole["optimizer"]
    whole["model"] = {name: tensor for name, tensor in whole["model"].items() if "dvae" not in name}
    (ready / "model.pth").unlink()
    torch.save(whole, ready / "model.pth")
    (ready / "reference.wav").write_bytes(recording(7.0))
    return ready


def adapters(base: Path, folder: Path, rank: int = 4) -> Path:
    """Files of PEFT's `save_pretrained` for a GPT with an adapter, readable by their owner only."""
    import torch
    from safetensors.torch import save_file

    model: dict[str, Any] = torch.load(base / "model.pth", weights_only=True)["model"]
    generator = torch.Generator().manual_seed(5)
    halves = {}
    for name, weight in model.items():
        if name.startswith("gpt.gpt.h.") and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            layer = f"base_model.model.{name.removeprefix('gpt.').removesuffix('.weight')}"
            halves[f"{layer}.lora_A.weight"] = torch.randn(rank, weight.shape[0], generator=generator)
            halves[f"{layer}.lora_B.weight"] = torch.randn(weight.shape[1], rank, generator=generator) / 10
    folder.mkdir()
    save_file(halves, folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").chmod(0o600)
    adapter = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["c_attn", "c_proj", "c_fc"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder


def f5_trainers(folder: Path) -> tuple[Path, Path]:
    """Files that the web page of f5-tts writes when it fine-tunes F5-TTS v1 Base, here a tiny one.

    Returns:
        The folders of its checkpoints and of its data.
    """
    import torch

    checkpoints, data = folder / "ckpts/lia", folder / "data/lia_pinyin"
    path = tiny_f5.build(checkpoints, tiny_f5.KINDS["f5-v1-base"].tiny, "training")
    torch.save(torch.load(path, weights_only=True) | {"update": 12_000}, path)
    settings = {"exp_name": "F5TTS_v1_Base", "learning_rate": 1e-05, "finetune": True, "tokenizer_type": "pinyin"}
    (checkpoints / "setting.json").write_text(json.dumps(settings, indent=4))
    data.mkdir(parents=True)
    (checkpoints / f5_vocabulary.NAME).rename(data / f5_vocabulary.NAME)
    return checkpoints, data
