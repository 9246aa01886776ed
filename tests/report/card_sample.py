"""The report's sample with a speaker per utterance, measured against a base, experts, terms and speed: for tables and cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from report_sample import MODELS, RATES, TARGETS, hypotheses, search_history

from asrmerge.evaluation.records import Scorecard
from asrmerge.evaluation.scorecard import build_scorecard
from asrmerge.report import DataSet, MergeInput, RecipeRecord, ReportData, RunFacts

RECIPE = "method: task_arithmetic\nbase: org/base\nexperts:\n  - {name: medical, model: org/medical, weight: 0.48}\n"
WEIGHTS = dict(zip(TARGETS, (0.48, 0.41, 0.55, 0.46), strict=True))


def sample_scorecard(rates: Mapping[str, tuple[float, ...]] = RATES) -> Scorecard:
    """Eight models on five domains, with every kind of figure."""
    heard = {
        model: {domain: [replace(one, speaker=one.identifier) for one in found] for domain, found in domains.items()}
        for model, domains in hypotheses(dict(rates), utterances=24).items()
    }
    return build_scorecard(
        heard,
        normalizer="whisper",
        substitutions={"gonna": "going to"},
        targets=TARGETS,
        candidate="merged",
        base="base",
        general="general",
        experts={domain: f"expert-{domain}" for domain in TARGETS},
        terms={"medical": ["metoprolol", "warfarin", "pneumonia"]},
        slices=("speaker",),
        rtfx={"merged": {"legal": 12.5}},
        seed=1,
        samples=1000,
    )


def sample_data(scorecard: Scorecard) -> ReportData:
    """A run's report around ``scorecard``."""
    inputs = [MergeInput("base", "org/base", None, "9f2c" * 16)]
    inputs += [MergeInput(name, f"runs/experts/{name}", weight, f"{name[0]}a7e" * 16) for name, weight in WEIGHTS.items()]
    return ReportData(
        title="Four domains, one recogniser",
        family="whisper",
        base="org/base",
        scorecard=scorecard,
        models=MODELS,
        general="general",
        search=search_history(),
        recipe=RecipeRecord(method="task_arithmetic", inputs=tuple(inputs), text=RECIPE, digest="c0ffee42" * 8),
        run=RunFacts(
            command="asrmerge run my-run.yaml",
            seeds={"run": 3},
            data=(DataSet("legal", "train", 600, 32.0), DataSet("legal", "test", 24, 1.25), DataSet("general", "test", 24, 1.5)),
            further={"Machine": "2 cores"},
        ),
    )
