"""Engines for tests; see ../README.md."""
