"""From the configuration to the rules for job files; what `defaults` says is checked as if a job said it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from engines.registry import engines, planned
from jobs.errors import ConfigError, JobInvalid, Problem
from jobs.parse import parse
from jobs.rules import Rules
from watcher.config import Config

_SEPARATE = ({"speaker_wav", "speaker_text"}, {"speaker"})


def job_rules(config: Config) -> Rules:
    """What job files are read by.

    Raises:
        ConfigError: `defaults` names an engine, a language or an option that is not there.
    """
    defaults = {key: value for key, value in config.defaults.model_dump().items() if value is not None}
    problems = dict.fromkeys(_wrong_defaults(defaults))
    if problems:
        lines = (f"{problem.key}: {problem.message}" for problem in problems)
        raise ConfigError("\n".join(lines), "Mend `defaults` in config.yaml; `voicespool engines` lists what there is.")
    return Rules(
        engines=engines(),
        planned=planned(),
        default_engine=defaults.pop("engine"),
        default_language=defaults.pop("language"),
        defaults=defaults,
        text_chars=config.limits.text_chars,
        documents=config.limits.documents,
    )


def _wrong_defaults(defaults: dict[str, Any]) -> Iterator[Problem]:
    """A job made of the defaults; twice, since a recording and a built-in voice exclude each other in one job."""
    rules = Rules(engines=engines(), planned=planned())
    for left_out in _SEPARATE:
        job = {"text": "Hello."} | {key: value for key, value in defaults.items() if key not in left_out}
        try:
            documents = parse(json.dumps(job).encode(), ".json", rules)
            problems = [problem for document in documents for problem in document.problems]
        except JobInvalid as invalid:
            problems = list(invalid.problems)
        for problem in problems:
            yield Problem(problem.message, f"defaults.{problem.key}" if problem.key else "defaults")
