"""Engines for tests: one that breaks on purpose, one that costs nothing. See ../README.md."""
