"""A search over models and audio on disk: evaluator, cache of transcripts and storage around a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from asrmerge import __version__
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible
from asrmerge.content import shipped_domains
from asrmerge.errors import ConfigError
from asrmerge.evaluation.normalizers import Normalizer, normalizer
from asrmerge.evaluation.terms import read_terms
from asrmerge.files import hash_content, write_text
from asrmerge.merging.structure import plan_places
from asrmerge.merging.units import plan_units, unit_shapes
from asrmerge.pipeline.data import content_key
from asrmerge.pipeline.search_statistics import statistics_hash
from asrmerge.pipeline.suite_sets import domain_terms
from asrmerge.progress import ProgressView
from asrmerge.recognizers import Precision
from asrmerge.report.front_chart import front_chart
from asrmerge.report.search_history import search_history
from asrmerge.report.standalone import standalone_svg
from asrmerge.search.blocks import ALL_AT_ONCE, GROWING, plan_audio
from asrmerge.search.budget import Spent
from asrmerge.search.candidate import CandidateError, statistics_of
from asrmerge.search.evaluator import CandidateEvaluator
from asrmerge.search.front import pick
from asrmerge.search.hypothesis_cache import HypothesisCache
from asrmerge.search.listening import Listener
from asrmerge.search.outcome import Asked
from asrmerge.search.result import SearchResult, Trial
from asrmerge.search.session import Leader
from asrmerge.search.study import Plan, run_search
from asrmerge.speech.manifest import Utterance
from asrmerge.validation import suggest

FRONT_WIDTH = 760.0  # pixels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchJob:
    """Models, audio and the way of decoding; what a search's transcripts depend on.

    Attributes:
        base: folder or hub id, as are the experts.
        validation: domain → utterances.
        terms: domain → its terms, normalised.
        statistics: expert, or ``base`` → folder of its statistics.
        workers: processes; None for as many as a cluster has room for.
        ray: address of a Ray cluster that evaluates the candidates.
        batch_seconds: of audio that goes through a model together; no part of what a search is known by, so that one that ran
            out of memory goes on with less.
    """

    base: str
    experts: Mapping[str, str]
    validation: Mapping[str, Sequence[Utterance]]
    normalizer: str = "whisper"
    terms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    statistics: Mapping[str, str] = field(default_factory=dict)
    workers: int | None = 1
    ray: str | None = None
    precision: Precision = "float32"
    device: str = "cpu"
    language: str | None = None
    batch_seconds: float = 60.0


def search_models(
    job: SearchJob,
    plan: Plan,
    *,
    storage: Path | str,
    cache: Path | None,
    key: str,
    on_trial: Callable[[Trial], None] | None = None,
    on_leader: Callable[[Leader], None] | None = None,
    on_spent: Callable[[Spent], None] | None = None,
) -> SearchResult:
    """Run the search; what a killed one left in ``storage`` and ``cache`` is not done again.

    Args:
        storage: a journal file, or a database's URL.
        cache: file for transcripts, of these models and this audio alone; None keeps them in memory.
        key: hash of everything in ``job``.
        on_leader: called when another candidate is the best so far, or it has heard more, also before it has heard everything.
        on_spent: called whenever something has been decoded.

    Raises:
        AsrmergeError: as the parts raise it.
    """
    audio = plan_audio(job.validation, seed=plan.seed, fractions=GROWING if plan.races else ALL_AT_ONCE)
    evaluator = CandidateEvaluator(
        job.base,
        job.experts,
        audio,
        normalizer=job.normalizer,
        workers=job.workers,
        ray=job.ray,
        precision=job.precision,
        device=job.device,
        language=job.language,
        batch_seconds=job.batch_seconds,
        statistics=job.statistics,
    )
    with evaluator as evaluate, HypothesisCache(cache) as known:
        listener = Listener(evaluate, known, normalizer(job.normalizer), job.terms)
        return run_search(
            plan,
            listener,
            audio,
            listener.totals,
            storage=storage,
            key=key,
            losses=lambda asked: _losses(evaluate, asked),
            on_trial=on_trial,
            on_leader=on_leader,
            on_spent=on_spent,
        )


def search_to_folder(
    job: SearchJob,
    plan: Plan,
    folder: Path,
    view: ProgressView,
    storage: str | None = None,
    *,
    hashes: Mapping[str, str] | None = None,
    point: str | None = None,
) -> SearchResult:
    """Search, with everything of it in a folder: ``trials.json``, the journal, the transcripts, and at any moment ``best.yaml``.

    Of several objectives, ``front.svg`` draws the front.

    Args:
        storage: a database's URL; a journal in ``folder`` by default.
        hashes: of the models' weights, by ``base`` and expert, where they are known.
        point: of several objectives, the front's point that is chosen.

    Raises:
        AsrmergeError: as :func:`search_models`; before any work, for models that do not fit together.
        ConfigError: the front has no such point; all files but those of the choice are written then.
    """
    _check_statistics(job, plan)
    sources = {"base": job.base, **job.experts}
    opened = {name: Checkpoint.open(source) for name, source in sources.items()}
    check_compatible(list(opened.values()), list(opened))
    audio = {
        "version": __version__,
        "models": {name: (hashes or {}).get(name) or one.hash() for name, one in opened.items()},
        "validation": {name: content_key(found) for name, found in job.validation.items()},
        "statistics": {name: statistics_hash(Path(place)) for name, place in job.statistics.items()},
        "decoding": [job.precision, job.device, job.language],
    }
    key = hash_content([audio, job.normalizer, {name: list(terms) for name, terms in job.terms.items()}])
    total, began = plan.budget.utterances or plan.budget.candidates, []

    def show(trial: Trial) -> None:
        began.append(trial)
        figure = "failed" if trial.objective is None else f"{100 * trial.objective:.2f} %"
        logger.debug("trial %d, %s: %s%s", trial.number, trial.candidate.label, figure, f"; {trial.note}" if trial.note else "")

    def lead(leader: Leader) -> None:
        recipe = leader.candidate.recipe(base=job.base, models=job.experts, statistics=job.statistics)
        write_text(folder / "best.yaml", recipe.to_yaml())
        rates = ", ".join(f"{name} {100 * wer:.1f}" for name, wer in leader.wer.items())
        said = f"best so far: {leader.candidate.label}, {100 * leader.objective:.2f} % ({rates}; {leader.heard})"
        logger.info("%s", said)
        view.note("searching", said)

    def on_spent(spent: Spent) -> None:
        if total is not None:
            done = spent.utterances if plan.budget.utterances else spent.candidates
            view.update("searching", min(done, total), total)

    result = search_models(
        job,
        plan,
        storage=storage or folder / "journal.log",
        cache=folder / f"hypotheses-{hash_content(audio)[:16]}.jsonl",
        key=key,
        on_trial=show,
        on_leader=lead,
        on_spent=on_spent,
    )
    view.end("searching")
    _write_result(result, folder)
    if point is not None:
        result = replace(result, picked=pick(result, point).number)
        _write_result(result, folder)
    best = result.chosen.candidate.recipe(base=job.base, models=job.experts, statistics=job.statistics)
    write_text(folder / "best.yaml", best.to_yaml())
    return result


def _write_result(result: SearchResult, folder: Path) -> None:
    result.write(folder / "trials.json")
    if result.objective.further:
        write_text(folder / "front.svg", standalone_svg(front_chart(search_history(result), FRONT_WIDTH)))


def _check_statistics(job: SearchJob, plan: Plan) -> None:
    for method in (one.method for one in plan.space.methods):
        kinds = statistics_of([method])
        missing = [name for name in job.experts if name not in job.statistics]
        if kinds and missing:
            raise ConfigError(
                f"{method} needs the {' and '.join(kinds)} of each expert, and there are none of '{missing[0]}': collect them "
                "with asrmerge stats and name their folders."
            )


def _losses(evaluate: CandidateEvaluator, asked: Asked) -> list[Mapping[str, tuple[float, ...]] | None]:
    return [None if isinstance(found, CandidateError) else found for found in evaluate.losses(asked)]


def model_groups(source: str) -> list[str]:
    """The structural groups of a model, told from its files alone."""
    checkpoint = Checkpoint.open(source)
    units = plan_units({name: checkpoint.dtype(name) for name in checkpoint.names}, checkpoint.model_type)
    shapes = unit_shapes(units, {name: checkpoint.shape(name) for name in checkpoint.names})
    return sorted({place.group for place in plan_places(shapes, checkpoint.model_type).values()})


def read_domain_terms(given: Mapping[str, str], domains: Sequence[str], normalize: Normalizer) -> dict[str, tuple[str, ...]]:
    """Normalised terms by domain, from files or shipped domains.

    Raises:
        ConfigError: a domain that has no validation audio, or a file that cannot be read.
    """
    found = {}
    for name, place in given.items():
        if name not in domains:
            raise ConfigError(f"--terms {name}={place}: there is no validation audio of '{name}'; {suggest(name, domains)}.")
        shipped = place in shipped_domains()
        found[name] = domain_terms(place, normalize) if shipped else read_terms(Path(place).expanduser(), normalize)
    return found
