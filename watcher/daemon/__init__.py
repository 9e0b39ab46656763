"""The loop: wake -> arrivals -> claim -> schedule -> executor -> publish.

Session, arrivals, readiness, intake, holds, events, status.json, signals, systemd.
May import `watcher.readers`, `watcher.executors`, `watcher.client`, `watcher.config`, `jobs`.
"""
