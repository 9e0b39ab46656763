"""The commands: options, exit codes, what is shown on a terminal; the one place where errors become words.

The only room with click and rich.
May import all of `watcher`.
"""
