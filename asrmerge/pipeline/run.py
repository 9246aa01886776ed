"""`asrmerge run`: data → experts → search → merge → evaluation → report, resumable stage by stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from asrmerge import __version__
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible
from asrmerge.config import RunConfig
from asrmerge.content import resolve_model
from asrmerge.errors import ConfigError
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.evaluation.scorecard import build_scorecard
from asrmerge.evaluation.slices import DURATION, SPEAKER, known_slices
from asrmerge.files import write_text
from asrmerge.merging.engine import merge_to_folder
from asrmerge.pipeline.data import GENERAL, DomainData, content_key, prepare_data
from asrmerge.pipeline.diagnostics import diagnose_run
from asrmerge.pipeline.evaluating import DecodingOptions, transcribe_models
from asrmerge.pipeline.reporting import describe_model, run_report
from asrmerge.pipeline.search_statistics import collect_for_search, statistics_hash
from asrmerge.pipeline.searching import SearchJob, model_groups, search_to_folder
from asrmerge.pipeline.stages import StageStore
from asrmerge.pipeline.suite_sets import LEARNT_FILE, check_leakage, domain_terms
from asrmerge.pipeline.training import JOINT, train_experts
from asrmerge.progress import ProgressView
from asrmerge.recognizers.recognizer import find_family
from asrmerge.report.data import ReportData
from asrmerge.report.html import write_report
from asrmerge.report.model_card import write_model_card
from asrmerge.report.playback import audio_links
from asrmerge.report.writing import write_tables
from asrmerge.search.candidate import Candidate, fixed_candidates
from asrmerge.search.planning import plan_search
from asrmerge.search.result import SearchResult
from asrmerge.search.study import Plan
from asrmerge.speech.grammar import SPLITS, Split
from asrmerge.speech.manifest import write_manifest

logger = logging.getLogger(__name__)
BASE, UNIFORM, MERGED = "base", "uniform", "merged"


@dataclass(frozen=True)
class RunResult:
    """A finished run's folder (``merged/``, ``scorecard.json``, ``report.html``), and what its report shows."""

    folder: Path
    report: ReportData


def run_pipeline(
    config: RunConfig, *, command: str, view: ProgressView, on_folder: Callable[[], None] = lambda: None
) -> RunResult:
    """Run every stage that is not done yet.

    Args:
        command: what the user typed, for the report.
        on_folder: called once the run's folder exists, after configuration, given models and audio were found good: bad
            input leaves an earlier run's folder as it was.

    Raises:
        AsrmergeError: bad input, named with its place and remedy; what was finished before is kept.
    """
    folder = Path(config.output).expanduser()
    stages = StageStore(folder / "stages")
    _check_before_work(config)
    config = config.model_copy(update={"precision": config.arithmetic})
    data = prepare_data(config, view)
    _check_learnt(data, stages)
    folder.mkdir(parents=True, exist_ok=True)
    on_folder()
    _write_learnt(folder / LEARNT_FILE, data)
    write_text(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    logger.info("seed %d; precision %s; output %s", config.seed, config.precision, folder)
    base = resolve_model(config.base)
    hashes = {BASE: Checkpoint.open(base).hash()}
    trained = train_experts(config, data, folder / "experts", stages, view, base_hash=hashes[BASE])
    experts = {name: trained[name] for name in config.domains}
    check_compatible([Checkpoint.open(source) for source in (base, *experts.values())], [config.base, *experts])
    hashes |= {name: Checkpoint.open(source).hash() for name, source in experts.items()}
    statistics = collect_for_search(config, data, base, experts, folder / "statistics", view)
    search = _search(config, data, base, experts, hashes, statistics, folder / "search", stages, view)
    uniform = next(candidate for candidate in fixed_candidates(list(experts), ()) if candidate.kind == "uniform")
    models = {BASE: base, **experts} | ({JOINT: trained[JOINT]} if JOINT in trained else {})
    for name, candidate in ((UNIFORM, uniform), (MERGED, search.chosen.candidate)):
        models[name] = str(_merge(candidate, config.base, experts, statistics, hashes, folder / name, stages))
    # Each model is hashed once in a run: of large ones, that is minutes.
    hashes |= {name: Checkpoint.open(source).hash() for name, source in models.items() if name not in hashes}
    diagnoses = diagnose_run(config, data, models, [UNIFORM, MERGED], hashes, folder / "diagnostics", stages, view)
    transcripts = transcribe_models(
        models,
        hashes,
        {name: content.test for name, content in data.items()},
        folder / "hypotheses",
        stages,
        view,
        workers=config.workers,
        options=DecodingOptions(device=config.device, precision=config.arithmetic, batch_seconds=config.batch_seconds),
    )
    scorecard = build_scorecard(
        transcripts.hypotheses,
        normalizer=config.evaluation.normalizer,
        targets=list(config.domains),
        candidate=MERGED,
        base=BASE,
        general=GENERAL if GENERAL in data else None,
        experts={name: name for name in config.domains},
        terms=_terms(config),
        slices=[by for by in (SPEAKER, DURATION) if by in known_slices(next(iter(transcripts.hypotheses.values())))],
        rtfx=transcripts.rtfx,
        seed=config.seed,
        level=config.evaluation.level,
        samples=config.evaluation.samples,
    )
    scorecard.write(folder / "scorecard.json")
    audio = audio_links(folder, transcripts.hypotheses)
    report = run_report(config, command, scorecard, transcripts.hypotheses, data, models, search, audio, diagnoses)
    write_report(folder / "report.html", report)
    write_tables(folder, scorecard, report.models)
    corpora = {name: source.test for name, source in config.domains.items()}
    if config.general is not None:
        corpora[GENERAL] = config.general.test
    write_model_card(folder / MERGED, describe_model(report, corpora))
    return RunResult(folder=folder, report=report)


def _terms(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """The terms of the synthesised domains."""
    normalize = normalizer(config.evaluation.normalizer)
    return {
        name: domain_terms(source.synthesize.domain, normalize)
        for name, source in config.domains.items()
        if source.synthesize is not None
    }


def _check_before_work(config: RunConfig) -> None:
    """What can be wrong in a configuration is found before anything long starts."""
    if (output := Path(config.output).expanduser()).exists() and not output.is_dir():
        raise ConfigError(f"The output {output} is a file: give the folder to write the run to.")
    normalizer(config.evaluation.normalizer)
    _plan(config, resolve_model(config.base), config.domains, 1, _terms(config))
    base = Checkpoint.open(resolve_model(config.base))
    find_family(resolve_model(config.base))
    given = {name: resolve_model(source.expert) for name, source in config.domains.items() if source.expert}
    check_compatible([base, *(Checkpoint.open(source) for source in given.values())], [config.base, *given])


def _check_learnt(data: Mapping[str, DomainData], stages: StageStore) -> None:
    inputs = {name: [content_key(content.split(split)) for split in SPLITS] for name, content in data.items()}
    if not stages.is_done("leakage", inputs, []):
        learnt = [utterance for content in data.values() for utterance in (*content.train, *content.validation)]
        check_leakage(learnt, [utterance for content in data.values() for utterance in content.test])
        stages.finish("leakage", inputs)


def _write_learnt(path: Path, data: Mapping[str, DomainData]) -> None:
    """List what the run's models are trained and tuned on, so that a later evaluation can refuse it as test audio."""
    learnt: Sequence[Split] = ("train", "validation")
    write_manifest(
        path,
        (
            replace(utterance, identifier=f"{name}/{split}/{utterance.identifier}")
            for name, content in data.items()
            for split in learnt
            for utterance in content.split(split)
        ),
    )


def _search(
    config: RunConfig,
    data: Mapping[str, DomainData],
    base: str,
    experts: Mapping[str, str],
    hashes: Mapping[str, str],
    statistics: Mapping[str, str],
    folder: Path,
    stages: StageStore,
    view: ProgressView,
) -> SearchResult:
    validation = {name: data[name].validation for name in (*experts, *([GENERAL] if GENERAL in data else []))}
    terms = _terms(config)
    plan = _plan(config, base, experts, sum(map(len, validation.values())), terms)
    key: dict[str, Any] = {
        "version": __version__,
        "models": hashes,
        "validation": {name: content_key(utterances) for name, utterances in validation.items()},
        "normalizer": config.evaluation.normalizer,
        "device": config.device,
        "precision": config.arithmetic,
    }
    # A larger budget, or another point of the front, goes on from the same history; anything else is another search.
    key |= {"statistics": {name: statistics_hash(Path(place)) for name, place in statistics.items()}} if statistics else {}
    key |= {"seed": config.seed, "search": config.search.model_dump(mode="json", exclude={"trials", "budget", "pick"})}
    inputs: dict[str, Any] = {**key, "budget": plan.budget.model_dump(mode="json"), "pick": config.search.pick}
    output = folder / "trials.json"
    job = SearchJob(
        base=base,
        experts=experts,
        validation=validation,
        normalizer=config.evaluation.normalizer,
        terms=terms,
        statistics=statistics,
        workers=config.workers if config.ray is None else None,
        ray=config.ray,
        precision=config.arithmetic,
        device=config.device,
        batch_seconds=config.batch_seconds,
    )

    def work() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not stages.is_done("search-key", key, []):
            (folder / "journal.log").unlink(missing_ok=True)
            stages.finish("search-key", key)
        search_to_folder(job, plan, folder, view, hashes=hashes, point=config.search.pick)

    stages.run("search", inputs, [output], work)
    return SearchResult.read(output)


def _plan(config: RunConfig, base: str, experts: Iterable[str], utterances: int, terms: Mapping[str, Sequence[str]]) -> Plan:
    return plan_search(
        config.search,
        experts=list(experts),
        targets=list(config.domains),
        watched=[GENERAL] if config.general is not None else [],
        utterances=utterances,
        seed=config.seed,
        known_groups=model_groups(base) if config.search.groups else None,
        known_terms=terms,
    )


def _merge(
    candidate: Candidate,
    base: str,
    experts: Mapping[str, str],
    statistics: Mapping[str, str],
    hashes: Mapping[str, str],
    output: Path,
    stages: StageStore,
) -> Path:
    recipe = candidate.recipe(base=base, models=experts, statistics=statistics)
    inputs: dict[str, Any] = {
        "version": __version__,
        "recipe": recipe.model_dump(mode="json"),
        "models": hashes,
        **({"statistics": {name: statistics_hash(Path(place)) for name, place in statistics.items()}} if statistics else {}),
    }
    stages.run(f"merge/{output.name}", inputs, [output], lambda: merge_to_folder(recipe, output, hashes=hashes))
    return output
