"""A run's configuration: one YAML file, every key checked before any work starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from asrmerge.experts.settings import FinetuneSettings
from asrmerge.search_settings import SearchSettings
from asrmerge.settings_file import read_settings
from asrmerge.statistics.settings import Kind, StatisticsSettings
from asrmerge.validation import Section, validate


class SynthesisSource(Section):
    """Speech made on first use from a domain folder: how many utterances of each split."""

    domain: str
    train: int = Field(default=500, ge=0)
    validation: int = Field(default=60, ge=1)
    test: int = Field(default=120, ge=1)
    maximum_seconds: float = Field(default=4.8, gt=0)


class DataSource(Section):
    """Where one domain's audio comes from: manifests given by path, or synthesis; and its expert, if there is one already."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    synthesize: SynthesisSource | None = None
    expert: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> DataSource:
        manifests = [self.validation, self.test]
        if self.synthesize is None and not all(manifests):
            raise ValueError("give manifests for 'validation' and 'test' (and 'train', or an 'expert'), or 'synthesize'")
        if self.synthesize is not None and any([self.train, *manifests]):
            raise ValueError("give either manifests or 'synthesize', not both")
        if self.synthesize is None and self.train is None and self.expert is None:
            raise ValueError("give 'train' to fine-tune an expert, or 'expert' to use one that exists")
        return self


class GeneralSource(Section):
    """General speech: what the base knew; replayed while fine-tuning and watched in every figure."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    synthesize: SynthesisSource | None = None

    @model_validator(mode="after")
    def _one_source(self) -> GeneralSource:
        manifests = [self.validation, self.test]
        if (self.synthesize is None and not all(manifests)) or (self.synthesize is not None and any([self.train, *manifests])):
            raise ValueError("give either manifests for 'validation' and 'test', or 'synthesize'")
        return self


class StatisticsOfRun(StatisticsSettings):
    """Statistics of the experts, where a method of the search needs them; ``kinds`` beside those that it does."""

    kinds: tuple[Kind, ...] = ()
    utterances: int | None = Field(default=200, ge=1, description="of each domain's training audio, else of its validation")


class EvaluationSettings(Section):
    """How figures are made: text normaliser, bootstrap samples, confidence level."""

    normalizer: str = "whisper"
    samples: int = Field(default=1000, ge=100)
    level: float = Field(default=0.95, gt=0.5, lt=1)


class RunConfig(Section):
    """Everything `asrmerge run` needs."""

    name: str
    output: str
    seed: int = 0
    base: str
    domains: dict[str, DataSource] = Field(min_length=1)
    general: GeneralSource | None = None
    finetune: FinetuneSettings = FinetuneSettings()
    joint: bool = False
    search: SearchSettings = SearchSettings()
    statistics: StatisticsOfRun = StatisticsOfRun()
    evaluation: EvaluationSettings = EvaluationSettings()
    cache: str = "~/.cache/asrmerge"
    workers: Annotated[int, Field(ge=1)] = 2
    ray: str | None = Field(default=None, description="address of a Ray cluster that evaluates the search's candidates")
    device: str = Field(default="cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    batch_seconds: float = Field(default=60.0, ge=1, description="audio that goes through a model together when it transcribes")

    @property
    def arithmetic(self) -> Literal["float32", "bfloat16"]:
        """``precision``; where that is ``auto``, bfloat16 if the device is fast in it."""
        if self.precision != "auto":
            return self.precision
        from asrmerge.recognizers.computing import fast_precision  # here, because it brings torch

        return fast_precision(self.device)

    @model_validator(mode="after")
    def _names(self) -> RunConfig:
        taken = {"general", "base", "uniform", "merged", "joint"} & set(self.domains)
        if taken:
            raise ValueError(f"a domain cannot be called '{sorted(taken)[0]}', a name that the report uses; choose another")
        odd = [name for name in self.domains if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)]
        if odd:
            raise ValueError(f"the domain name '{odd[0]}' may hold only letters, digits, '-' and '_'")
        if self.joint and any(source.expert and not (source.train or source.synthesize) for source in self.domains.values()):
            raise ValueError("'joint' fine-tunes on every domain's training audio; give 'train' for each domain")
        return self


def read_config(path: str | Path, definitions: Mapping[str, str] | None = None) -> RunConfig:
    """Read a run's configuration; ``path``, variables and errors as for ``read_settings``.

    Raises:
        ConfigError: also if a key is unknown or a value wrong.
    """
    content, file = read_settings(path, "configs", definitions)
    return validate(RunConfig, content, str(file))
