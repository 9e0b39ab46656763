"""The running service and its command line: process, operating system, terminal.

`python -m watcher` is `voicespool`; `log` is for all rooms.
May import `jobs`, `engines`, `files`.
"""
