"""The worker process on this machine: one warm engine, killed when in doubt.

One file for each thing that can go wrong with a child process; `main` is the child's own side.
May import `jobs`, `engines`.
"""
