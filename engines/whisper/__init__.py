"""Transcribes recordings that have no transcript, with Whisper.

`transcripts` finds the model and caches its results; `net` runs it and imports torch.
May import `engines.neural_engine`, `engines.voices` and below.
"""
