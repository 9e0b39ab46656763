"""Trains a tiny XTTS-v2 with coqui's own trainer, as its recipe does: two epochs of a dozen sentences, ten seconds.

    python -m tests.train_xtts TRAINING

Prints the folder of the run last; it has the files that the trainer writes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile

from engines.base import Chunk, Device
from engines.device import runtime
from engines.espeak.engine import Espeak
from tests.model_files import tiny_xtts
from tests.rendered import rendered
from tests.training_runs import ORIGINALS

SENTENCES = (
    "good morning to all of you dear friends of the sea", "this is a sentence of middle length and it goes on",
    "it rains and it will go on raining until the end", "who is there said the man at the door of the house",
) * 3  # fmt: skip
LONGEST = 602  # audio tokens of a sentence; far more than a tiny model generates


def main(training: Path) -> Path:
    """Train. Returns the folder of the run."""
    runtime.quiet()
    runtime.prepare_torchaudio()
    originals = training / ORIGINALS
    build_originals(originals)
    record(training / "data")
    read_without_ffmpeg()
    from trainer import Trainer, TrainerArgs
    from TTS.tts.datasets import load_tts_samples
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

    config = configuration(training, originals)
    model = GPTTrainer(config)
    samples, others = load_tts_samples(config, eval_split=True, eval_split_size=config.eval_split_size)
    arguments = TrainerArgs(start_with_eval=True)
    trainer = Trainer(
        arguments, config, output_path=str(training), model=model, train_samples=samples, eval_samples=others
    )
    trainer.fit()
    run = Path(trainer.output_path)
    (run / "checkpoint_3.pth").rename(run / "checkpoint_10000.pth")  # as a longer training would have called it
    return run


def build_originals(folder: Path) -> None:
    """The recipe's downloads: a base model, and files that only training needs."""
    import torch
    from TTS.tts.layers.xtts.dvae import DiscreteVAE

    tiny = tiny_xtts()
    tiny.build(folder, replace(tiny.TINY, longest=LONGEST))
    dvae = DiscreteVAE(
        channels=80,
        normalization=None,
        positional_dims=1,
        num_tokens=1024,
        codebook_dim=512,
        hidden_dim=512,
        num_resnet_blocks=3,
        kernel_size=3,
        num_layers=2,
        use_transposed_convs=False,
    )
    torch.save(dvae.state_dict(), folder / "dvae.pth")
    torch.save(torch.ones(80), folder / "mel_stats.pth")


def record(folder: Path) -> None:
    """A data set in the layout of LJSpeech, spoken by eSpeak NG."""
    (folder / "wavs").mkdir(parents=True)
    espeak = Espeak()
    espeak.load(None, Device())
    for number, voice in enumerate(rendered(espeak, *(Chunk(text, "en", seed=0) for text in SENTENCES))):
        soundfile.write(folder / f"wavs/{number}.wav", voice.samples, voice.rate_hz)
    espeak.close()
    lines = [f"{number}|{text}|{text}" for number, text in enumerate(SENTENCES)]
    (folder / "metadata.csv").write_text("\n".join(lines))


def read_without_ffmpeg() -> None:
    """Read files with soundfile: torchaudio needs FFmpeg's libraries, which may be missing."""
    import torch
    import torchaudio

    def load(path: str, *_rest: Any, **_more: Any) -> tuple[torch.Tensor, int]:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), rate_hz

    torchaudio.load = load


def configuration(training: Path, originals: Path) -> Any:
    """The recipe's configuration, made small and quick."""
    from TTS.config.shared_configs import BaseDatasetConfig
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainerConfig

    size = tiny_xtts().TINY
    arguments = GPTArgs(
        mel_norm_file=str(originals / "mel_stats.pth"),
        dvae_checkpoint=str(originals / "dvae.pth"),
        xtts_checkpoint=str(originals / "model.pth"),
        tokenizer_file=str(originals / "vocab.json"),
        gpt_num_audio_tokens=1026,
        gpt_start_audio_token=1024,
        gpt_stop_audio_token=1025,
        gpt_use_perceiver_resampler=True,
        gpt_layers=size.layers,
        gpt_n_model_channels=size.channels,
        gpt_n_heads=size.heads,
        decoder_input_dim=size.channels,
        gpt_number_text_tokens=size.text_rows,
        gpt_max_audio_tokens=LONGEST + 3,
    )
    data = training / "data"
    dataset = BaseDatasetConfig(
        formatter="ljspeech", path=str(data), meta_file_train=str(data / "metadata.csv"), language="en"
    )
    return GPTTrainerConfig(
        output_path=str(training),
        run_name="GPT_XTTS_FT",
        model_args=arguments,
        audio=XttsAudioConfig(sample_rate=22050, dvae_sample_rate=22050, output_sample_rate=24000),
        datasets=[dataset],
        epochs=2,
        batch_size=2,
        eval_batch_size=2,
        eval_split_size=0.2,
        num_loader_workers=0,
        save_step=3,
        save_n_checkpoints=1,
        optimizer="AdamW",
        optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
        lr=5e-06,
        lr_scheduler="MultiStepLR",
        lr_scheduler_params={"milestones": [900_000], "gamma": 0.5, "last_epoch": -1},
    )


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))  # noqa: T201 - for who started it
