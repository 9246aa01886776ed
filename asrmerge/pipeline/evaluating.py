"""Transcripts of every model on every test set, in parallel, each kept and keyed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from asrmerge import __version__
from asrmerge.evaluation.decoding import DecodingRecord, record_path
from asrmerge.evaluation.hypotheses import Hypothesis, read_hypotheses
from asrmerge.files import hash_content
from asrmerge.pipeline.data import content_key
from asrmerge.pipeline.stages import StageStore
from asrmerge.pipeline.workers import Report, Task, run_tasks
from asrmerge.progress import ProgressView
from asrmerge.speech.manifest import Utterance

FEATURES = ".features"  # kept while models are transcribing, for the next that has the same feature extractor


@dataclass(frozen=True)
class DecodingOptions:
    """What transcripts depend on beside weights and audio; see :func:`asrmerge.recognizers.transcriber.load_transcriber`."""

    device: str = "cpu"
    precision: str | None = None
    language: str | None = None
    batch_seconds: float = 60.0


@dataclass(frozen=True)
class Transcripts:
    """Hypotheses, and seconds of audio decoded in a second, both by model and set."""

    hypotheses: dict[str, dict[str, tuple[Hypothesis, ...]]]
    rtfx: dict[str, dict[str, float]]


def transcribe_models(
    models: Mapping[str, str],
    hashes: Mapping[str, str],
    sets: Mapping[str, Sequence[Utterance]],
    folder: Path,
    stages: StageStore,
    view: ProgressView,
    *,
    workers: int,
    options: DecodingOptions,
    threads: int = 1,
) -> Transcripts:
    """Transcripts in ``folder/<model>/<set>.jsonl``, each with its decoding record. What is done already is read.

    Args:
        models, hashes: the models' sources and the hashes of their weights, by name.
        workers, threads: processes, a model each, and the threads of each.
    """
    keys = {name: content_key(utterances) for name, utterances in sets.items()}
    tasks = []
    for model, source in models.items():
        inputs = {
            name: {"version": __version__, "model": hashes[model], "audio": key, **asdict(options)} for name, key in keys.items()
        }
        missing = {name: sets[name] for name in sets if not _is_done(stages, model, name, inputs[name], folder)}
        if missing:
            arguments = {
                "model": model,
                "source": source,
                "sets": missing,
                "inputs": inputs,
                "folder": folder,
                "stages": stages,
                "options": options,
            }
            tasks.append(Task(f"transcribing with {model}", transcribe_task, arguments))
    run_tasks(tasks, workers, view, threads=threads)
    shutil.rmtree(folder / FEATURES, ignore_errors=True)
    return Transcripts(
        hypotheses={model: {name: read_hypotheses(_path(folder, model, name)) for name in sets} for model in models},
        rtfx={model: _rates(folder, model, sets) for model in models},
    )


def transcribe_task(
    report: Report,
    model: str,
    source: str,
    sets: Mapping[str, Sequence[Utterance]],
    inputs: Mapping[str, Any],
    folder: Path,
    stages: StageStore,
    options: DecodingOptions,
) -> None:
    """One model on its missing test sets, in a worker."""
    from asrmerge.evaluation.transcription import transcribe_manifest
    from asrmerge.recognizers.feature_cache import FeatureCache
    from asrmerge.recognizers.transcriber import load_transcriber

    recognizer = load_transcriber(
        source,
        device=options.device,
        precision=options.precision,
        language=options.language,
        feature_cache=FeatureCache(folder / FEATURES),
    )
    total = sum(map(len, sets.values()))
    before = 0
    for name, utterances in sets.items():
        path = _path(folder, model, name)
        started = path.with_suffix(".key")
        _forget_other_inputs(path, started, hash_content(inputs[name]))
        transcribe_manifest(
            recognizer,
            utterances,
            path,
            model=source,
            batch_seconds=options.batch_seconds,
            progress=partial(_report_after, report, before, total),
        )
        started.unlink(missing_ok=True)
        stages.finish(_stage(model, name), inputs[name])
        before += len(utterances)


def _is_done(stages: StageStore, model: str, name: str, inputs: Any, folder: Path) -> bool:
    path = _path(folder, model, name)
    return stages.is_done(_stage(model, name), inputs, [path, record_path(path)])


def _rates(folder: Path, model: str, sets: Mapping[str, Any]) -> dict[str, float]:
    rates = {name: DecodingRecord.read(record_path(_path(folder, model, name))).rtfx for name in sets}
    return {name: rate for name, rate in rates.items() if rate is not None}


def _path(folder: Path, model: str, name: str) -> Path:
    return folder / model / f"{name}.jsonl"


def _stage(model: str, name: str) -> str:
    return f"hypotheses/{model}/{name}"


def _report_after(report: Report, before: int, total: int, done: int, _of_set: int) -> None:
    report(before + done, total)


def _forget_other_inputs(path: Path, started: Path, digest: str) -> None:
    """A partial file does not say whose it is: drop one that was begun with other weights, audio or precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not started.exists() or started.read_text(encoding="utf-8") != digest:
        path.with_name(f"{path.name}.partial").unlink(missing_ok=True)
        started.write_text(digest, encoding="utf-8")
