"""From the audio of chunks to a file: checks, PCM, WAV.

Runs in the worker process.
May import `engines.base`, `engines.errors`, `files`.
"""
