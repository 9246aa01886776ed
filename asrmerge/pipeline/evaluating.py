"""Transcripts of every model on every test set, in parallel, each kept and keyed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from asrmerge import __version__
from asrmerge.evaluation.hypotheses import Hypothesis, read_hypotheses
from asrmerge.files import hash_content
from asrmerge.pipeline.data import DomainData, content_key
from asrmerge.pipeline.stages import StageStore
from asrmerge.pipeline.workers import Report, Task, run_tasks
from asrmerge.progress import ProgressView
from asrmerge.recognizers.recognizer import Precision


def transcribe_models(
    models: Mapping[str, str],
    hashes: Mapping[str, str],
    data: Mapping[str, DomainData],
    folder: Path,
    stages: StageStore,
    view: ProgressView,
    *,
    workers: int,
    device: str,
    precision: Precision,
) -> dict[str, dict[str, tuple[Hypothesis, ...]]]:
    """Hypotheses by model and domain: ``folder/<model>/<domain>.jsonl``. What is done already is read.

    ``models`` and ``hashes``: the models' sources and the hashes of their weights, by name.
    """
    keys = {domain: content_key(content.test) for domain, content in data.items()}
    tasks = []
    for model, source in models.items():
        common = {"version": __version__, "model": hashes[model], "device": device, "precision": precision}
        missing = {}
        for domain in data:
            inputs = {**common, "audio": keys[domain]}
            if not stages.is_done(f"hypotheses/{model}/{domain}", inputs, [folder / model / f"{domain}.jsonl"]):
                missing[domain] = inputs
        if missing:
            tasks.append(
                Task(
                    f"transcribing with {model}",
                    transcribe_task,
                    {
                        "model": model,
                        "source": source,
                        "data": {domain: data[domain] for domain in missing},
                        "inputs": missing,
                        "folder": folder / model,
                        "stages": stages,
                        "device": device,
                        "precision": precision,
                    },
                )
            )
    run_tasks(tasks, workers, view)
    return {model: {domain: read_hypotheses(folder / model / f"{domain}.jsonl") for domain in data} for model in models}


def transcribe_task(
    report: Report,
    model: str,
    source: str,
    data: Mapping[str, DomainData],
    inputs: Mapping[str, Any],
    folder: Path,
    stages: StageStore,
    device: str,
    precision: Precision,
) -> None:
    """One model on its missing test sets, in a worker."""
    from asrmerge.evaluation.transcription import transcribe_manifest
    from asrmerge.recognizers.recognizer import load_recognizer

    recognizer = load_recognizer(source, device=device, precision=precision)
    total = sum(len(content.test) for content in data.values())
    before = 0
    for domain, content in data.items():
        path = folder / f"{domain}.jsonl"
        started = folder / f"{domain}.key"
        _forget_other_inputs(path, started, hash_content(inputs[domain]))
        transcribe_manifest(recognizer, content.test, path, model=source, progress=partial(_report_after, report, before, total))
        started.unlink(missing_ok=True)
        stages.finish(f"hypotheses/{model}/{domain}", inputs[domain])
        before += len(content.test)


def _report_after(report: Report, before: int, total: int, done: int, _of_domain: int) -> None:
    report(before + done, total)


def _forget_other_inputs(path: Path, started: Path, digest: str) -> None:
    """A partial file does not say whose it is: drop one that was begun with other weights, audio or precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not started.exists() or started.read_text(encoding="utf-8") != digest:
        path.with_name(f"{path.name}.partial").unlink(missing_ok=True)
        started.write_text(digest, encoding="utf-8")
