"""`voicespool doctor`: what is wrong with this machine and its folders, and what to do.

Findings as data; no terminal.
May import `watcher.daemon`, `watcher.models` and below.
"""
