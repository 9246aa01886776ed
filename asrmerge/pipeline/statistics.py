"""Statistics of several models on several domains' audio, each model loaded once, in processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible
from asrmerge.errors import ConfigError
from asrmerge.merging.artefact import Header
from asrmerge.merging.references import open_model
from asrmerge.merging.units import Unit, plan_units
from asrmerge.pipeline.workers import Report, Task, run_tasks
from asrmerge.progress import ProgressView
from asrmerge.recognizers.recognizer import find_family
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.settings import Kind, StatisticsSettings

Headers = dict[Kind, Header]


@dataclass(frozen=True)
class StatisticsJob:
    """One model and what it is to hear: a folder for its statistics → utterances."""

    name: str
    source: str
    audio: Mapping[Path, tuple[Utterance, ...]]
    settings: StatisticsSettings
    device: str = "cpu"
    language: str | None = None


def plan_statistics(
    models: Mapping[str, str],
    audio: Mapping[str, Sequence[Utterance]],
    output: Path,
    settings: StatisticsSettings,
    *,
    every_domain: bool = False,
    base: str | None = None,
    device: str = "cpu",
    language: str | None = None,
) -> list[StatisticsJob]:
    """Each model on the audio of its own name, into ``output/MODEL``; or on every domain's, into ``output/MODEL/DOMAIN``.

    Args:
        base: of a merge of all the models; what none of them has changed is left out.

    Raises:
        ConfigError: a model has no audio, or audio no model.
        CheckpointError: a model is missing or of an unknown family.
    """
    if not every_domain:
        for name in models:
            if name not in audio:
                raise ConfigError(f"the model {name} has no audio: give --audio {name}=CORPUS, or --every-domain.")
        for name in audio:
            if name not in models:
                raise ConfigError(f"the audio {name} has no model of that name: give {name}=MODEL, or --every-domain.")
    for source in models.values():
        find_family(open_model(source).folder)
    if base is not None:
        settings = settings.model_copy(update={"unchanged": unchanged_parameters([base, *models.values()])})
    jobs = []
    for name, source in models.items():
        own = {output / name / domain: tuple(audio[domain]) for domain in audio} if every_domain else None
        heard = own or {output / name: tuple(audio[name])}
        jobs.append(StatisticsJob(name, source, heard, settings, device, language))
    return jobs


def unchanged_parameters(sources: Sequence[str]) -> tuple[str, ...]:
    """The parameters that have the same values in all models, by the names under which merges know them.

    Raises:
        CheckpointError: a model is missing or corrupt, or they don't fit each other.
    """
    first, *others = (open_model(source) for source in sources)
    check_compatible([first, *others], list(sources))
    units = plan_units({name: first.dtype(name) for name in first.names}, first.model_type)
    return tuple(unit.name for unit in units if all(_equal(unit, first, other) for other in others))


def _equal(unit: Unit, one: Checkpoint, two: Checkpoint) -> bool:
    return all(torch.equal(one.read(name).float(), two.read(name).float()) for name in unit.members)


def run_statistics(jobs: Sequence[StatisticsJob], *, workers: int, view: ProgressView, threads: int = 1) -> dict[Path, Headers]:
    """Collect what is not there yet; the headers of all, by folder."""
    tasks = [Task(f"statistics of {job.name}", statistics_task, {"job": job}) for job in jobs]
    return {folder: headers for found in run_tasks(tasks, workers, view, threads=threads) for folder, headers in found.items()}


def statistics_task(report: Report, job: StatisticsJob) -> dict[Path, Headers]:
    """One model, in a worker."""
    from asrmerge.statistics.collecting import collect_statistics
    from asrmerge.statistics.subject import load_subject

    subject = load_subject(job.source, device=job.device, language=job.language)
    total = sum(len(utterances) for utterances in job.audio.values())
    found: dict[Path, Headers] = {}
    before = 0
    for folder, utterances in job.audio.items():
        found[folder] = collect_statistics(
            subject,
            utterances,
            folder,
            job.settings,
            on_utterance=lambda done, _, before=before: report(before + done, total),  # type: ignore[misc]
        )
        before += len(utterances)
        report(before, total)
    return found
