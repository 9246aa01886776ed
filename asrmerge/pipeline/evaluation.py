"""`asrmerge evaluate`: any models on any sets → transcripts, scorecard, gates, tables, report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from asrmerge.errors import ConfigError
from asrmerge.evaluation.gates import Gate, GateResult, judge, known_figures, parse_gates
from asrmerge.evaluation.hypotheses import Hypothesis, write_hypotheses
from asrmerge.evaluation.junit import write_junit
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.evaluation.scorecard import build_scorecard
from asrmerge.evaluation.slices import check_slices
from asrmerge.evaluation.substitutions import read_substitutions
from asrmerge.files import write_json, write_text
from asrmerge.pipeline.evaluating import DecodingOptions, Transcripts, transcribe_models
from asrmerge.pipeline.reporting import describe_model, evaluation_report
from asrmerge.pipeline.stages import StageStore
from asrmerge.pipeline.suite_sets import check_leakage, find_learnt, read_sets, set_terms
from asrmerge.pipeline.systems import System, check_loadable, content_hash
from asrmerge.progress import ProgressView
from asrmerge.report.data import ReportData
from asrmerge.report.html import write_report
from asrmerge.report.playback import audio_links, copy_audio
from asrmerge.report.writing import write_tables
from asrmerge.speech.corpora import read_corpus
from asrmerge.speech.manifest import Utterance, json_line
from asrmerge.suite import Suite
from asrmerge.validation import suggest

logger = logging.getLogger(__name__)

SUITE_FILE, GATES_FILE, FAILED_FILE = "suite.yaml", "gates.json", "failed.jsonl"


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated, and how.

    Attributes:
        candidate: the system that is compared with all others and held against the gates.
        base: the system that retention and closed gaps are measured from.
        experts: set → the system that was fine-tuned for it.
        learnt: corpora that the systems were trained or tuned on.
        cache: a folder for synthesised speech, and for audio that isn't there as files.
        workers: processors to use: a process for each model, and several threads for each where there are fewer models.
        with_audio: copy the audio beside the report, so that it plays there.
    """

    suite: Suite
    systems: tuple[System, ...]
    output: Path
    candidate: str
    base: str | None
    experts: Mapping[str, str]
    options: DecodingOptions
    cache: Path
    learnt: tuple[str, ...] = ()
    workers: int = 1
    with_audio: bool = False


@dataclass(frozen=True)
class EvaluationResult:
    """What the report shows, and what came of the gates."""

    report: ReportData
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


def run_evaluation(
    evaluation: Evaluation, *, command: str, view: ProgressView, on_folder: Callable[[], None] = lambda: None
) -> EvaluationResult:
    """Transcribe what is not transcribed yet, score, judge, and write ``evaluation.output``.

    Args:
        command: what the user typed, for the report.
        on_folder: called once the folder exists, after everything that is given was found good.

    Raises:
        AsrmergeError: bad input, named with its place and remedy; what was transcribed before is kept.
    """
    suite, folder = evaluation.suite, evaluation.output
    _check_before_work(evaluation)
    normalize = normalizer(suite.normalizer)
    substitutions = read_substitutions(suite.substitutions, normalize) if suite.substitutions else {}
    terms = set_terms(suite.sets, normalize)
    models = {system.name: system.source for system in evaluation.systems if system.transcribes}
    sets = read_sets(suite, evaluation.cache, view, workers=evaluation.workers, decoded=bool(models))
    check_slices(sets, suite.slices)
    outputs = {system.name: system.read(sets) for system in evaluation.systems if not system.transcribes}
    _check_learnt(evaluation, models, sets, view)
    folder.mkdir(parents=True, exist_ok=True)
    on_folder()
    write_text(folder / SUITE_FILE, yaml.safe_dump(suite.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    logger.info("seed %d; output %s", suite.seed, folder)
    hashes = {name: content_hash(source) for name, source in models.items()}
    transcripts = _transcripts(evaluation, models, hashes, sets, outputs, view)
    _write_failed(folder / FAILED_FILE, transcripts.hypotheses)
    scorecard = build_scorecard(
        transcripts.hypotheses,
        normalizer=suite.normalizer,
        targets=suite.target_names,
        seed=suite.seed,
        candidate=evaluation.candidate,
        base=evaluation.base,
        general=suite.general,
        experts=evaluation.experts,
        terms=terms,
        substitutions=substitutions,
        alignment=suite.alignment,
        slices=suite.slices,
        rtfx=transcripts.rtfx,
        level=suite.level,
        samples=suite.samples,
    )
    scorecard.write(folder / "scorecard.json")
    gates = judge(_gates(evaluation), scorecard, evaluation.candidate)
    _write_gates(folder, suite.name, gates)
    report = evaluation_report(
        evaluation.suite,
        command,
        scorecard,
        transcripts.hypotheses,
        systems=evaluation.systems,
        candidate=evaluation.candidate,
        sets=sets,
        gates=gates,
        audio=(copy_audio if evaluation.with_audio else audio_links)(folder, transcripts.hypotheses),
    )
    write_report(folder / "report.html", report)
    write_tables(folder, scorecard, report.models)
    if evaluation.candidate in models:
        write_text(folder / "model_card.md", describe_model(report, {name: one.corpus for name, one in suite.sets.items()}))
    return EvaluationResult(report=report, gates=gates)


def _check_before_work(evaluation: Evaluation) -> None:
    folder, names = evaluation.output, [system.name for system in evaluation.systems]
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"The output {folder} is a file: give the folder to write the evaluation to.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SUITE_FILE).is_file():
        raise ConfigError(f"The output {folder} holds something other than an evaluation: give another folder.")
    for name in (evaluation.candidate, *([evaluation.base] if evaluation.base else []), *evaluation.experts.values()):
        if name not in names:
            raise ConfigError(f"there is no model '{name}'; {suggest(name, names)}.")
    for name in evaluation.experts:
        if name not in evaluation.suite.sets:
            raise ConfigError(f"an expert is given for '{name}', which is no set; {suggest(name, evaluation.suite.sets)}.")
    _gates(evaluation)
    for system in evaluation.systems:
        if system.transcribes:
            check_loadable(system)


def _gates(evaluation: Evaluation) -> tuple[Gate, ...]:
    suite, names = evaluation.suite, [system.name for system in evaluation.systems]
    return parse_gates(suite.gates, sets=list(suite.sets), models=names, figures=known_figures())


def _check_learnt(
    evaluation: Evaluation, models: Mapping[str, str], sets: Mapping[str, Sequence[Utterance]], view: ProgressView
) -> None:
    corpora = [*evaluation.learnt, *(f"nemo:{file}" for file in find_learnt(list(models.values())))]
    learnt = [
        utterance
        for corpus in corpora
        for utterance in read_corpus(corpus, cache=evaluation.cache / "corpora", on_progress=view.task(f"reading {corpus}"))
    ]
    if learnt:
        check_leakage(learnt, [utterance for utterances in sets.values() for utterance in utterances], skip_unreadable=True)


def _transcripts(
    evaluation: Evaluation,
    models: Mapping[str, str],
    hashes: Mapping[str, str],
    sets: Mapping[str, Sequence[Utterance]],
    outputs: Mapping[str, Mapping[str, tuple[Hypothesis, ...]]],
    view: ProgressView,
) -> Transcripts:
    """Of all systems, in their order; those of other systems are kept beside the models' own."""
    processes = max(1, min(evaluation.workers, len(models)))
    folder = evaluation.output / "hypotheses"
    made = transcribe_models(
        models,
        hashes,
        sets,
        folder,
        StageStore(evaluation.output / "stages"),
        view,
        workers=processes,
        threads=max(1, evaluation.workers // processes),
        options=evaluation.options,
    )
    for name, given in outputs.items():
        for one, rows in given.items():
            write_hypotheses(folder / name / f"{one}.jsonl", rows)
    hypotheses = {system.name: dict(outputs.get(system.name) or made.hypotheses[system.name]) for system in evaluation.systems}
    return Transcripts(hypotheses, made.rtfx)


def _write_failed(path: Path, hypotheses: Mapping[str, Mapping[str, Sequence[Hypothesis]]]) -> None:
    """List what could not be transcribed; no file where there is nothing of the kind."""
    failed = [
        {"model": model, "set": name, "id": one.identifier, "audio_filepath": str(one.audio), "error": one.error}
        for model, found in hypotheses.items()
        for name, rows in found.items()
        for one in rows
        if one.error is not None
    ]
    if failed:
        write_text(path, "".join(map(json_line, failed)))
        logger.warning("%d transcripts are missing, and their utterances left out for every model: see %s", len(failed), path)
    else:
        path.unlink(missing_ok=True)


def _write_gates(folder: Path, suite: str, gates: Sequence[GateResult]) -> None:
    paths = [folder / GATES_FILE, folder / "junit.xml"]
    if not gates:
        for path in paths:
            path.unlink(missing_ok=True)
        return
    rows = [
        {
            "gate": one.gate.text,
            "model": one.model,
            "value": one.value,
            "limit": one.limit,
            "p": one.p,
            "passed": one.passed,
        }
        for one in gates
    ]
    write_json(paths[0], {"passed": all(one.passed for one in gates), "gates": rows})
    write_junit(paths[1], suite, gates)
