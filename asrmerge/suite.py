"""An evaluation suite: which test sets, how they are scored, and the gates that a model must pass; one YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from asrmerge.errors import ConfigError
from asrmerge.settings_file import read_settings
from asrmerge.validation import Section, suggest, validate

RESERVED = frozenset({"macro", "worst_domain"})  # what gates call the average and the worst set


class SynthesisedSet(Section):
    """The test speech of a domain's folder, made on first use: the same as that of a run with as many test utterances."""

    domain: str
    test: int = Field(default=150, ge=1)
    maximum_seconds: float = Field(default=4.8, gt=0)


class EvaluationSet(Section):
    """One test set: a corpus in any format that is read, or synthesised speech; and the terms that matter in it."""

    corpus: str | None = None
    synthesize: SynthesisedSet | None = None
    terms: str | None = Field(default=None, description="a file with one term per line, or the name of a shipped domain")

    @model_validator(mode="after")
    def _one_source(self) -> EvaluationSet:
        if (self.corpus is None) == (self.synthesize is None):
            raise ValueError("give either 'corpus' or 'synthesize'")
        return self


class Suite(Section):
    """Everything that decides the figures of an evaluation, but the models."""

    name: str
    sets: dict[str, EvaluationSet] = Field(min_length=1)
    targets: tuple[str, ...] | None = Field(default=None, description="sets of the macro average; else all but the general one")
    general: str | None = Field(default=None, description="the set that shows how much of the base's accuracy is kept")
    normalizer: str = "whisper"
    substitutions: str | None = Field(default=None, description="a file of words and phrases that count as the same")
    alignment: Literal["levenshtein", "sclite"] = "levenshtein"
    slices: tuple[str, ...] = ()
    level: float = Field(default=0.95, gt=0.5, lt=1)
    samples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)
    gates: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Suite:
        for name in self.sets:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"the name of a set, '{name}', may hold only letters, digits, '-' and '_'")
            if name in RESERVED:
                raise ValueError(f"a set cannot be called '{name}', a name that gates use; choose another")
        for name in (*(self.targets or ()), *([self.general] if self.general else [])):
            if name not in self.sets:
                raise ValueError(f"'{name}' is none of the sets ({', '.join(self.sets)})")
        if not self.target_names:
            raise ValueError("no set is left to average: name one more, or give 'targets'")
        return self

    @property
    def target_names(self) -> tuple[str, ...]:
        """The sets of the macro average."""
        return self.targets if self.targets is not None else tuple(name for name in self.sets if name != self.general)


def complete_suite(
    path: str | None, definitions: Mapping[str, str] | None = None, changes: Mapping[str, Any] | None = None
) -> Suite:
    """The suite in ``path``, if any, with what the command line adds to it.

    ``changes``: by key, those that are empty left out. ``sets`` (name → corpus) are added to the suite's and go before those of
    the same name; ``terms`` (set → file or domain) are given to their sets; ``gates`` are added; other keys are replaced.

    Raises:
        ConfigError: as for ``read_suite``; or terms are given for no set.
    """
    content: Any = {}
    place = "the command line"
    if path is not None:
        content, file = read_settings(path, "eval", definitions)
        place = str(file)
        validate(Suite, content, place)
    given = {key: value for key, value in (changes or {}).items() if value}
    sets = {**content.get("sets", {}), **{name: {"corpus": corpus} for name, corpus in given.pop("sets", {}).items()}}
    for name, terms in given.pop("terms", {}).items():
        if name not in sets:
            raise ConfigError(f"terms are given for '{name}', which is no set; {suggest(name, sets)}.")
        sets[name] = {**sets[name], "terms": terms}
    if not sets:
        raise ConfigError("there is no test set: give some as --set NAME=PLACE, or a suite.")
    gates = [*content.get("gates", []), *given.pop("gates", [])]
    return validate(Suite, {**content, **given, "sets": sets, "gates": gates}, place)


def read_suite(path: str | Path, definitions: Mapping[str, str] | None = None) -> Suite:
    """Read a suite; a bare name is looked up among the shipped ones, variables are filled in as in a run's configuration.

    Raises:
        ConfigError: the file is missing or malformed, a key unknown or a value wrong, a variable not set.
    """
    content, file = read_settings(path, "eval", definitions)
    return validate(Suite, content, str(file))
