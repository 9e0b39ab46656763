"""Language tags: BCP-47, in any case, with `-` or `_`."""

from __future__ import annotations

import re

_LONGEST = 60
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
    """Write a tag the usual way: `pt_br` as `pt-BR`, `ZH-hant-tw` as `zh-Hant-TW`; None when it is no tag.

    The form follows RFC 5646, sections 2.1 and 2.1.1; whether its parts are registered is not looked up.
    """
    lower = tag.strip().replace("_", "-").lower()
    match = _TAG.fullmatch(lower) if len(lower) <= _LONGEST else None
    if match is None:
        return None
    for part, form in (("script", str.title), ("region", str.upper)):
        start, end = match.span(part)
        if start >= 0:
            lower = lower[:start] + form(lower[start:end]) + lower[end:]
    return lower
