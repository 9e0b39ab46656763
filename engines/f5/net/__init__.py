"""The networks of F5-TTS and E2-TTS (DiT, UNetT), flow matching, and packed batches.

Imports torch when it is imported.
May import `engines.torch`, `engines.voices` and below.
"""
