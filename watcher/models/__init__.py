"""Checkpoints and voices as people manage them: lists, downloads.

Data for commands; no terminal.
May import `watcher.config`, `watcher.client`, `jobs`, `engines`.
"""
