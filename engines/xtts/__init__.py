"""XTTS-v2: which files make a model, what it can do, and its networks in `net`.

`engine` imports no torch; `net` is imported by its `load`.
May import `engines.neural_engine` and below.
"""
