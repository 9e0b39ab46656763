"""Whisper (arXiv 2212.04356) as transformers has it: transcribes a recording of at most 30 s."""

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
    """Transcribe by greedy decoding, so the same recording always gives the same text.

    The language is detected from the audio and not taken from the job, whose language may differ from the recording's:
    Whisper translates if it is given the wrong one.

    Args:
        folder: Of the model, in safetensors.
        samples: Mono, float32 (n,).
        rate_hz: Their sample rate.
        device: `cpu`, `mps` or `cuda:N`; float16 on CUDA, else float32.

    Returns:
        The text in one line, and Whisper's language code; "" if the model has only one language.
    """
    processor: Any = WhisperProcessor.from_pretrained(folder, local_files_only=True)
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    model: Any = WhisperForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=dtype
    )
    model.to(device).eval()
    audio = resample(torch.from_numpy(samples), rate_hz, RATE_HZ).numpy()  # (samples at 16 kHz,)
    # input_features (1, mel bands, 3000): padded with silence to 30 s
    features = processor(audio, sampling_rate=RATE_HZ, return_tensors="pt").input_features.to(device, dtype)
    language_ids = getattr(model.generation_config, "lang_to_id", None)
    options, language = {}, ""
    if language_ids:  # English-only models have none, and generate() refuses both options for them
        detected = int(model.detect_language(features)[0])
        token = next(token for token, token_id in language_ids.items() if token_id == detected)  # `<|pt|>`
        options, language = {"language": token, "task": "transcribe"}, token.strip("<|>")
    token_ids = model.generate(features, do_sample=False, num_beams=1, **options)  # (1, tokens)
    text: str = processor.batch_decode(token_ids, skip_special_tokens=True)[0]
    return " ".join(text.split()), language
