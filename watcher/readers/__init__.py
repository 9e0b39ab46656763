"""Reader processes: they read job files that may take long, within limits on time and memory.

`pool` is the daemon's side, `main` the process.
May import `watcher.config`, `watcher.executors.local.process`, `jobs`.
"""
