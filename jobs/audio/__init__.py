"""From chunks' audio to a file: checks, PCM, WAV, loudness.

Runs in the worker process.
May import `engines.base`, `engines.errors`, `files`.
"""
