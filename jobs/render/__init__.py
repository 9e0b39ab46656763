"""THE WORKER'S STORY: an order becomes a chunk plan, chunks become audio, audio becomes finished files.

Runs in the worker process.
May import `jobs.spec`, `jobs.spool.places`, `jobs.text`, `jobs.audio`, `engines`.
"""
