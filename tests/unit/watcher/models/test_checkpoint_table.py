"""The tables of docs/CHECKPOINTS.md say what is said of files."""

from __future__ import annotations

from tests.checkpoint_table import PAGE, page


def test_the_page_has_the_tables_that_files_make() -> None:
    """`python -m tests.checkpoint_table` writes them anew."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
