"""Processes that read job files which may take long, within bounds of time and memory.

`pool` is the daemon's side, `main` the process.
May import `watcher.config`, `watcher.executors.local.process`, `jobs`.
"""
