"""The worker process on this machine: one warm engine, killed when in doubt.

Each module deals with one thing that can go wrong with a child process; `main` is the child.
May import `jobs`, `engines`.
"""
