"""The rules for job files, from the configuration. `defaults` are checked like keys of a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from engines.registry import engines, planned
from files.tree import Problem
from jobs.errors import ConfigError, JobInvalid
from jobs.spec.checkpoint_names import Models
from jobs.spec.parse import parse
from jobs.spec.rules import Rules
from watcher.config.settings import Config

_SEPARATE = ({"speaker_wav", "speaker_text"}, {"speaker"})


def job_rules(config: Config) -> Rules:
    """The rules for job files.

    Raises:
        ConfigError: An engine, language, option or model in `defaults` does not exist.
    """
    defaults = {key: value for key, value in config.defaults.model_dump().items() if value is not None}
    models = Models(config.models, config.allowed_roots)
    problems = dict.fromkeys(_wrong_defaults(defaults, models, config.limits.speaker_text_chars))
    if problems:
        lines = (f"{problem.key}: {problem.message}" for problem in problems)
        raise ConfigError(
            "\n".join(lines),
            "Fix `defaults` in config.yaml. See `voicespool engines` and `voicespool checkpoints list`.",
        )
    return Rules(
        engines=engines(),
        planned=planned(),
        default_engine=defaults.pop("engine"),
        default_language=defaults.pop("language"),
        models=models,
        defaults=defaults,
        transcribe=config.transcribe,
        text_chars=config.limits.text_chars,
        documents=config.limits.documents,
        recordings=config.limits.recordings,
        recording_uses=config.limits.recording_uses,
        speaker_text_chars=config.limits.speaker_text_chars,
    )


def _wrong_defaults(defaults: dict[str, Any], models: Models, speaker_text_chars: int) -> Iterator[Problem]:
    """Problems of test jobs that are made of the defaults.

    There are several jobs, since a recording and a built-in voice exclude each other, and a checkpoint decides the
    engine. A problem with a key that the defaults do not have, such as a missing voice, is left to the real jobs.
    """
    engine = defaults["engine"]
    rules = Rules(engines(), planned(), default_engine=engine, models=models, speaker_text_chars=speaker_text_chars)
    replaced = {"engine"} if "checkpoint" in defaults else set()
    jobs = [{key: value for key, value in defaults.items() if key not in out | replaced} for out in _SEPARATE]
    for job in [*jobs, {"engine": engine}]:
        for problem in _problems({"text": "Hello.", **job}, rules):
            if not problem.key or problem.key.partition(".")[0] in job:
                yield Problem(problem.message, f"defaults.{problem.key}" if problem.key else "defaults")


def _problems(job: dict[str, Any], rules: Rules) -> list[Problem]:
    try:
        documents = parse(json.dumps(job).encode(), ".json", rules)
    except JobInvalid as invalid:
        return list(invalid.problems)
    return [problem for document in documents for problem in document.problems]
