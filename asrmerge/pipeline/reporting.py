"""What the reports of a run and of an evaluation are drawn from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.writing import PROVENANCE_FILE, RECIPE_FILE
from asrmerge.config import RunConfig
from asrmerge.errors import AsrmergeError
from asrmerge.evaluation.gates import GateResult
from asrmerge.evaluation.records import Scorecard
from asrmerge.inspection.diagnosis import Diagnosis
from asrmerge.merging.recipe import Recipe
from asrmerge.pipeline.data import GENERAL, DomainData
from asrmerge.pipeline.systems import System
from asrmerge.report.card_metadata import DataOrigin
from asrmerge.report.data import (
    AudioLinks,
    DataSet,
    Hypotheses,
    MergeInput,
    RecipeRecord,
    ReportData,
    ReportModel,
    Role,
    RunFacts,
    SearchHistory,
)
from asrmerge.report.input_cards import documents_beside, input_cards
from asrmerge.report.model_card import model_card
from asrmerge.report.search_history import search_history
from asrmerge.search.result import SearchResult
from asrmerge.speech.grammar import SPLITS
from asrmerge.speech.manifest import Utterance
from asrmerge.suite import Suite

_ROLES: Mapping[str, Role] = {"base": "base", "uniform": "uniform", "merged": "merged", "joint": "joint"}
_DATASETS = "datasets"  # the prefix of the hub's
_TRIALS = Path("search") / "trials.json"  # in a run's folder


def run_report(
    config: RunConfig,
    command: str,
    scorecard: Scorecard,
    hypotheses: Hypotheses,
    data: Mapping[str, DomainData],
    models: Mapping[str, str],
    search: SearchResult,
    audio: AudioLinks,
    diagnoses: Mapping[str, Diagnosis],
) -> ReportData:
    """Everything that a run's report shows."""
    return ReportData(
        title=config.name,
        family=Checkpoint.open(models["base"]).model_type,
        base=config.base,
        scorecard=scorecard,
        models=tuple(ReportModel(name, _ROLES.get(name, "expert"), domain=None if name in _ROLES else name) for name in models),
        general=GENERAL if GENERAL in data else None,
        hypotheses=hypotheses,
        search=search_history(search),
        recipe=read_recipe(Path(models["merged"])),
        run=RunFacts(
            command=command,
            seeds={"run": config.seed},
            data=tuple(
                one
                for name, content in data.items()
                for one in _data_sets((split, name, content.split(split)) for split in SPLITS)
            ),
        ),
        audio=audio,
        candidate="merged",
        diagnoses=diagnoses,
    )


def evaluation_report(
    suite: Suite,
    command: str,
    scorecard: Scorecard,
    hypotheses: Hypotheses,
    *,
    systems: Sequence[System],
    candidate: str,
    sets: Mapping[str, Sequence[Utterance]],
    gates: tuple[GateResult, ...],
    audio: AudioLinks,
) -> ReportData:
    """Everything that an evaluation's report shows; how the candidate was made, where its folder says so."""
    own = {model: name for name, model in scorecard.experts.items()}
    sources = {system.name: system.source for system in systems if system.transcribes}
    folder = Path(sources[candidate]) if candidate in sources else None
    base = next((system.given for system in systems if system.transcribes and system.name == scorecard.base), None)
    return ReportData(
        title=suite.name,
        family=_family(sources.get(candidate)),
        base=base,
        scorecard=scorecard,
        models=tuple(ReportModel(name, _role(name, scorecard, own), domain=own.get(name)) for name in scorecard.models),
        general=suite.general,
        hypotheses=hypotheses,
        search=None if folder is None else _read_search(folder),
        recipe=None if folder is None else read_recipe(folder),
        run=RunFacts(
            command=command,
            seeds={"evaluation": suite.seed},
            data=_data_sets(("test", name, utterances) for name, utterances in sets.items()),
        ),
        audio=audio,
        gates=gates,
        candidate=candidate,
    )


def describe_model(data: ReportData, corpora: Mapping[str, str | None]) -> str:
    """The model card of what a report is about, with the licences of what it came from.

    ``corpora``: where each set's audio came from, ``[FORMAT:]PLACE[,option=value…]``; ``None`` where it was synthesised.
    """
    inputs = {} if data.recipe is None else input_cards({item.name: item.source for item in data.recipe.inputs})
    return model_card(data, inputs, {name: _origin(corpus) for name, corpus in corpora.items() if corpus is not None})


def read_recipe(folder: Path) -> RecipeRecord | None:
    """How the weights in ``folder`` were merged; ``None`` where it does not say."""
    if not (folder / RECIPE_FILE).is_file():
        return None
    recipe = Recipe.read(folder / RECIPE_FILE)
    hashes = _hashes(folder / PROVENANCE_FILE)
    # A list runs over the depth; the report shows one number.
    inputs = [
        MergeInput(expert.name, expert.model, float(np.mean(expert.weight)), hashes.get(expert.name)) for expert in recipe.experts
    ]
    if recipe.base is not None:
        inputs.insert(0, MergeInput("base", recipe.base, None, hashes.get("base")))
    return RecipeRecord(
        method=recipe.method,
        inputs=tuple(inputs),
        parameters=recipe.parameters,
        text=recipe.to_yaml(),
        digest=recipe.hash(),
        output=str(folder),
    )


def _origin(corpus: str) -> DataOrigin:
    prefix, colon, rest = corpus.partition(":")
    has_format = bool(colon) and not Path(corpus).exists()
    place, *parts = (rest if has_format else corpus).split(",")
    if prefix == _DATASETS and not Path(place).exists():
        options = dict(part.partition("=")[::2] for part in parts)
        return DataOrigin(dataset=place, config=options.get("config"), split=options.get("split", "test"))
    return DataOrigin(documents=documents_beside(place))


def _hashes(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = [*content.get("experts", []), *([{"name": "base", **content["base"]}] if content.get("base") else [])]
    return {entry["name"]: entry["sha256"] for entry in entries}


def _read_search(folder: Path) -> SearchHistory | None:
    """The search that a run's merged model came from: it lies beside its folder."""
    path = folder.resolve().parent / _TRIALS
    return search_history(SearchResult.read(path)) if path.is_file() else None


def _family(source: str | None) -> str | None:
    if source is None:
        return None
    try:
        return Checkpoint.open(source).model_type
    except AsrmergeError:  # an exported model is no checkpoint
        return None


def _role(name: str, scorecard: Scorecard, own: Mapping[str, str]) -> Role:
    if name == scorecard.base:
        return "base"
    if name in own:
        return "expert"
    return _ROLES.get(name, "other")


def _data_sets(parts: Iterable[tuple[str, str, Sequence[Utterance]]]) -> tuple[DataSet, ...]:
    """From split, domain and utterances."""
    return tuple(
        DataSet(name, split, len(utterances), sum(utterance.duration for utterance in utterances) / 60)
        for split, name, utterances in parts
        if utterances
    )
