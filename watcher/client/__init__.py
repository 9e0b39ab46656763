"""What any client of the folders does: drop, submit, cancel, follow, results, validate, status as data.

No terminal.
May import `watcher.config`, `jobs`.
"""
