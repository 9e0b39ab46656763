"""The worker's part: from an order to a chunk plan, to audio, to finished files.

Runs in the worker process.
May import `jobs.spec`, `jobs.spool.places`, `jobs.text`, `jobs.audio`, `engines`.
"""
