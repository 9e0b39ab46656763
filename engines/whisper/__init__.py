"""Transcripts of recordings that have none, by Whisper.

`transcripts` finds the model and keeps what it heard; `net` imports torch.
May import `engines.neural_engine`, `engines.voices` and below.
"""
