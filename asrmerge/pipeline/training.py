"""The experts of a run: fine-tuned on their domains in parallel, or taken as given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrmerge import __version__
from asrmerge.config import RunConfig
from asrmerge.content import resolve_model
from asrmerge.experts.settings import FinetuneSettings
from asrmerge.pipeline.data import GENERAL, DomainData, content_key
from asrmerge.pipeline.stages import StageStore
from asrmerge.pipeline.workers import Report, Task, run_tasks
from asrmerge.progress import ProgressView
from asrmerge.recognizers.recognizer import Precision
from asrmerge.speech.manifest import Utterance

JOINT = "joint"


@dataclass(frozen=True)
class TrainingJob:
    """One fine-tuning: what it reads, what it writes, what its key is made of."""

    name: str
    base: str
    train: tuple[Utterance, ...]
    general: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    output: Path
    settings: FinetuneSettings
    steps: int
    seed: int
    device: str
    precision: Precision

    def inputs(self, base_hash: str) -> dict[str, Any]:
        """What the result depends on."""
        return {
            "version": __version__,
            "base": base_hash,
            "train": content_key(self.train),
            "general": content_key(self.general),
            "validation": content_key(self.validation),
            "settings": self.settings.model_dump(),
            "steps": self.steps,
            "seed": self.seed,
            "device": self.device,
            "precision": self.precision,
        }


def train_experts(
    config: RunConfig, data: Mapping[str, DomainData], folder: Path, stages: StageStore, view: ProgressView, *, base_hash: str
) -> dict[str, str]:
    """Sources of every expert by domain, and of the joint model where the configuration asks for one.

    ``base_hash`` is that of the base's weights. Fine-tunings that are done already are not done again; the others run in
    ``config.workers`` processes.
    """
    base = resolve_model(config.base)
    jobs = _jobs(config, data, base, folder)
    inputs = {job.name: job.inputs(base_hash) for job in jobs}
    missing = [job for job in jobs if not stages.is_done(f"experts/{job.name}", inputs[job.name], [job.output])]
    # The longest first, so that no worker is left alone with it at the end.
    missing.sort(key=lambda job: -job.steps)
    tasks = [
        Task(f"fine-tuning {job.name}", finetune_task, {"job": job, "stages": stages, "inputs": inputs[job.name]})
        for job in missing
    ]
    run_tasks(tasks, config.workers, view)
    trained = {job.name: str(job.output) for job in jobs}
    return {name: trained.get(name) or resolve_model(str(source.expert)) for name, source in config.domains.items()} | (
        {JOINT: trained[JOINT]} if JOINT in trained else {}
    )


def finetune_task(report: Report, job: TrainingJob, stages: StageStore, inputs: dict[str, Any]) -> None:
    """One fine-tuning, in a worker."""
    from asrmerge.experts.finetune import TrainingAudio, finetune

    finetune(
        job.base,
        TrainingAudio(job.train, job.general, job.validation),
        job.output,
        job.settings,
        seed=job.seed,
        steps=job.steps,
        device=job.device,
        precision=job.precision,
        on_step=report,
    )
    stages.finish(f"experts/{job.name}", inputs)


def _jobs(config: RunConfig, data: Mapping[str, DomainData], base: str, folder: Path) -> list[TrainingJob]:
    general = data[GENERAL].train if GENERAL in data else ()

    def job(name: str, train: tuple[Utterance, ...], validation: tuple[Utterance, ...], steps: int, seed: int) -> TrainingJob:
        # As many looks as an expert has, or patience would end a longer schedule while its learning rate is still high.
        looks = max(1, round(config.finetune.evaluate_every * steps / config.finetune.steps))
        return TrainingJob(
            name=name,
            base=base,
            train=train,
            general=general,
            validation=validation,
            output=folder / name,
            settings=config.finetune.model_copy(update={"evaluate_every": looks}),
            steps=steps,
            seed=seed,
            device=config.device,
            precision=config.arithmetic,
        )

    jobs = [
        job(name, data[name].train, data[name].validation, config.finetune.steps, config.seed + number)
        for number, (name, source) in enumerate(config.domains.items())
        if source.expert is None
    ]
    if config.joint:
        steps = config.finetune.joint_steps or config.finetune.steps * len(config.domains)
        train = tuple(utterance for name in config.domains for utterance in data[name].train)
        # Interleaved, so that the validation loss looks at every domain although it stops after some minutes of audio.
        columns = [data[name].validation for name in config.domains]
        longest = max(len(column) for column in columns)
        validation = tuple(column[row] for row in range(longest) for column in columns if row < len(column))
        jobs.append(job(JOINT, train, validation, steps, config.seed + len(config.domains)))
    return jobs
