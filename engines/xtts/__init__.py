"""The engine for XTTS-v2: its options, the files of a model, and its networks in `net`.

`engine` imports no torch; `net` is imported by its `load`.
May import `engines.neural_engine` and below.
"""
