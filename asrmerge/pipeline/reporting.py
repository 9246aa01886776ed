"""What a run's report is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.writing import RECIPE_FILE
from asrmerge.config import RunConfig
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.records import Scorecard
from asrmerge.merging.recipe import Recipe
from asrmerge.pipeline.data import GENERAL, DomainData
from asrmerge.report.data import DataSet, MergeInput, RecipeRecord, ReportData, ReportModel, Role, RunFacts
from asrmerge.report.search_history import search_history
from asrmerge.search.result import SearchResult
from asrmerge.speech.grammar import SPLITS

_ROLES: Mapping[str, Role] = {"base": "base", "uniform": "uniform", "merged": "merged", "joint": "joint"}


def run_report(
    config: RunConfig,
    command: str,
    scorecard: Scorecard,
    hypotheses: Mapping[str, Mapping[str, Sequence[Hypothesis]]],
    data: Mapping[str, DomainData],
    models: Mapping[str, str],
    hashes: Mapping[str, str],
    search: SearchResult,
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
        recipe=_recipe(Path(models["merged"]), config, hashes),
        run=RunFacts(command=command, seeds={"run": config.seed}, data=_data_sets(data)),
    )


def _recipe(merged: Path, config: RunConfig, hashes: Mapping[str, str]) -> RecipeRecord:
    recipe = Recipe.read(merged / RECIPE_FILE)
    base = MergeInput("base", config.base, None, hashes["base"])
    experts = [
        # A list runs over the depth; the report shows one number.
        MergeInput(expert.name, expert.model, float(np.mean(expert.weight)), hashes[expert.name])
        for expert in recipe.experts
    ]
    return RecipeRecord(
        method=recipe.method,
        inputs=(base, *experts),
        parameters=recipe.parameters,
        text=recipe.to_yaml(),
        digest=recipe.hash(),
        output=str(merged),
    )


def _data_sets(data: Mapping[str, DomainData]) -> tuple[DataSet, ...]:
    return tuple(
        DataSet(name, split, len(utterances), sum(utterance.duration for utterance in utterances) / 60)
        for name, content in data.items()
        for split in SPLITS
        if (utterances := content.split(split))
    )
