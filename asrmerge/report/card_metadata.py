"""The front matter of a model card as the Hugging Face hub reads it: licence, lineage, and the figures as a model index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from asrmerge.evaluation.records import Range
from asrmerge.report.data import ReportData, title_of
from asrmerge.report.input_cards import InputCard, License

_TASK, _TASK_NAME = "automatic-speech-recognition", "Automatic Speech Recognition"


@dataclass(frozen=True)
class DataOrigin:
    """Where a domain's audio came from: ``dataset`` is its hub id with configuration and split, where it has one, and
    ``documents`` are the names of README and licence files beside its manifests."""

    dataset: str | None = None
    config: str | None = None
    split: str = "test"
    documents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """What the model was made of: ``inputs`` by their names in the recipe, ``origins`` by domain."""

    inputs: Mapping[str, InputCard]
    origins: Mapping[str, DataOrigin]

    @property
    def license(self) -> License | None:
        """The licence that all inputs have in common; those that were fine-tuned here have the terms of their base."""
        found = {card.license for card in self.inputs.values() if not card.derived}
        return found.pop() if len(found) == 1 else None

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that every input has that names some, in the first one's order."""
        named = [card.languages for card in self.inputs.values() if card.languages]
        return tuple(language for language in _unique(named[0]) if all(language in other for other in named)) if named else ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """Hub ids of what was trained, tuned and tested on, as far as they are known."""
        trained = [name for card in self.inputs.values() for name in card.datasets]
        return _unique([*trained, *(origin.dataset for origin in self.origins.values() if origin.dataset is not None)])


def lineage(data: ReportData, inputs: Mapping[str, InputCard], origins: Mapping[str, DataOrigin]) -> Lineage:
    """Every input of the recipe, without a card where none is given; without a recipe, ``inputs`` as they are."""
    names = inputs if data.recipe is None else [item.name for item in data.recipe.inputs]
    return Lineage({name: inputs.get(name, InputCard()) for name in names}, origins)


def card_metadata(data: ReportData, made_of: Lineage) -> ModelCardData:
    """The front matter of the report's main model."""
    models = [card.hub_id for card in made_of.inputs.values() if card.hub_id is not None]
    merged = data.recipe is not None or data.focus.role == "merged"
    tags = [_TASK, *(["merge"] if merged else []), "asrmerge", *([_tag(data.family)] if data.family else [])]
    languages = list(made_of.languages)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=_TASK,
        tags=tags,
        base_model=list(_unique(models)) or None,
        base_model_relation="merge" if models and merged else None,
        language=languages[0] if len(languages) == 1 else languages or None,
        datasets=list(made_of.datasets) or None,
        metrics=["wer", "cer"],
        model_name=data.title,
        eval_results=evaluation_results(data, made_of.origins),
        **_license(made_of),
    )


def evaluation_results(data: ReportData, origins: Mapping[str, DataOrigin]) -> list[EvalResult]:
    """Word and character error rate in % of the report's main model on every test set."""
    found = []
    for domain, score in data.scorecard.models[data.focus.name].domains.items():
        rates = {"wer": (score.wer, score.ci)}
        cer = score.metrics.get("cer")
        if cer is not None and cer.value is not None:
            rates["cer"] = (cer.value, cer.ci or (cer.value, cer.value))
        for metric, (value, ci) in rates.items():
            found.append(
                EvalResult(
                    task_type=_TASK,
                    task_name=_TASK_NAME,
                    dataset_name=title_of(domain),
                    **_data_set(domain, origins),
                    metric_type=metric,
                    metric_name=metric.upper(),
                    metric_value=_percent(value),
                    metric_args=_conditions(data, ci),
                )
            )
    return found


def _data_set(domain: str, origins: Mapping[str, DataOrigin]) -> dict[str, str | None]:
    """The hub tells data sets apart by type, configuration and split: domains that share them go by their own names."""
    origin = origins.get(domain, DataOrigin())
    places = Counter((other.dataset, other.config, other.split) for other in origins.values())
    if origin.dataset is None or places[origin.dataset, origin.config, origin.split] > 1:
        return {"dataset_type": domain, "dataset_split": origin.split}
    return {"dataset_type": origin.dataset, "dataset_config": origin.config, "dataset_split": origin.split}


def _conditions(data: ReportData, ci: Range) -> dict[str, Any]:
    card = data.scorecard
    return {
        "normalizer": card.normalizer,
        "substitutions": len(card.substitutions),
        "alignment": card.alignment,
        "level": card.level,
        "interval": [_percent(bound) for bound in ci],
    }


def _license(made_of: Lineage) -> dict[str, str | None]:
    if not made_of.inputs:
        return {}
    common = made_of.license
    if common is None:
        return {"license": "other"}
    return {"license": common.identifier, "license_name": common.name, "license_link": common.link}


def _percent(fraction: float) -> float:
    return round(100 * fraction, 2)


def _tag(family: str) -> str:
    return "-".join(family.lower().split())


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
