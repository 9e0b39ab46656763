"""Whisper as transformers has it: a recording of at most 30 s becomes text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchaudio.functional import resample
from transformers import WhisperForConditionalGeneration, WhisperProcessor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE_HZ = 16000


@torch.inference_mode()
def transcribe(folder: Path, samples: NDArray[np.float32], rate_hz: int, device: str) -> tuple[str, str]:
    """What is said, the likeliest word at a time, so that it is the same each time; and in which language.

    The language is what the model takes it for, not the job's: that may be another one than the recording's, and a
    Whisper which is told a wrong one translates.

    Args:
        folder: Of the model, safetensors.
        samples: Mono, [n].
        device: cpu, mps or cuda:N; there in float16.

    Returns:
        The text in one line, and Whisper's code of the language; "" where the model knows one alone.
    """
    processor: Any = WhisperProcessor.from_pretrained(folder, local_files_only=True)
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    model: Any = WhisperForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=dtype
    )
    model.to(device).eval()
    sound = resample(torch.from_numpy(samples), rate_hz, RATE_HZ).numpy()
    features = processor(sound, sampling_rate=RATE_HZ, return_tensors="pt").input_features.to(device, dtype)
    languages = getattr(model.generation_config, "lang_to_id", None)
    told, language = {}, ""
    if languages:
        number = int(model.detect_language(features)[0])
        token = next(name for name, one in languages.items() if one == number)
        told, language = {"language": token, "task": "transcribe"}, token.strip("<|>")
    written = model.generate(features, do_sample=False, num_beams=1, **told)
    text: str = processor.batch_decode(written, skip_special_tokens=True)[0]
    return " ".join(text.split()), language
