"""The networks of F5-TTS: DiT and UNetT, flow matching, batches of sequences laid end to end.

Imports torch when it is imported.
May import `engines.torch`, `engines.voices` and below.
"""
