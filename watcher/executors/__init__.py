"""Executors render orders. `local` is the worker process on this machine.

One room for each executor.
May import `watcher.config`, `jobs`.
"""
