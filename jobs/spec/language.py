"""Language tags: BCP-47, in any case, with `-` or `_`."""

from __future__ import annotations

import re

_MAX_CHARS = 60
_TAG = re.compile(
    r"""
    [a-z]{2,3}                                  # language
    (?:-[a-z]{3}){0,3}                          # extended language
    (?P<script>-[a-z]{4})?
    (?P<region>-(?:[a-z]{2}|[0-9]{3}))?
    (?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*    # variants
    (?:-[a-wyz0-9](?:-[a-z0-9]{2,8})+)*         # extensions
    (?:-x(?:-[a-z0-9]{1,8})+)?                  # private use
    """,
    re.VERBOSE,
)


def canonical_language(tag: str) -> str | None:
    """The canonical form of a tag: `pt_br` gives `pt-BR`, `ZH-hant-tw` gives `zh-Hant-TW`; None if it is not a tag.

    Follows RFC 5646, sections 2.1 and 2.1.1; does not check that the subtags are registered.
    """
    lower = tag.strip().replace("_", "-").lower()
    match = _TAG.fullmatch(lower) if len(lower) <= _MAX_CHARS else None
    if match is None:
        return None
    for part, form in (("script", str.title), ("region", str.upper)):
        start, end = match.span(part)
        if start >= 0:
            lower = lower[:start] + form(lower[start:end]) + lower[end:]
    return lower
