"""Maps keys of other TTS tools to the equivalent key of a job file, for error messages."""

from __future__ import annotations

_KEYS_OF_OTHERS = {
    "`text`": "input content gen_text input_text text_input tts_text prompt ssml sentence",
    "`segments`": "sentences paragraphs passages parts dialogue script",
    "`speaker` (a voice built into the model or engine) or `speaker_wav` (a reference recording)": (
        "voice voice_id voice_name speaker_id speaker_name speaker_idx narrator"
    ),
    "`speaker_wav`": (
        "ref_audio ref_wav ref_file ref_audio_path reference reference_audio reference_wav reference_audio_path "
        "reference_speaker speaker_audio speaker_file speaker_wav_path speaker_reference prompt_audio prompt_wav "
        "prompt_speech prompt_audio_path audio_prompt audio_prompt_path voice_file voice_sample clone_audio"
    ),
    "`speaker_text`": "ref_text reference_text reference_transcript prompt_text prompt_transcript transcript",
    "`language`": "lang lang_code lang_id language_code language_id language_idx locale",
    "`name`": "output_file output_name output_path output_filename outfile out out_path file_name file_path title",
    "`output: {format: …}`": "response_format output_format audio_format codec",
    "`output: {sample_rate: …}`": "sampling_rate sample_rate_hz output_sample_rate sr",
    "`checkpoint` (a fine-tuned model) or `engine`": "model model_id model_name",
    "`checkpoint`": "model_path model_file ckpt ckpt_file ckpt_path checkpoint_path",
    "`engine`": "tts_engine tts_model backend provider",
    "`settings: {speed: …}`": "speaking_rate speech_rate tempo",
    "`not_before`": "start_at run_at schedule delay_until",
    "`metadata`": "meta tags extra user_data",
    "`pause_after_ms` in a segment, or `[pause 800ms]` in a text": "pause pause_ms silence break",
}


def _form(key: str) -> str:
    """Equal for `refAudio`, `ref-audio` and `ref_audio`."""
    return key.lower().replace("_", "").replace("-", "")


_EQUIVALENTS = {_form(key): own for own, keys in _KEYS_OF_OTHERS.items() for key in keys.split()}


def equivalent(key: str) -> str:
    """What to write instead of a key of another tool; "" if none is known."""
    return _EQUIVALENTS.get(_form(key), "")
