"""Fine-tuning one expert through accelerate: gentle, with replay, stopped when the validation curve flattens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from asrmerge.errors import ManifestError
from asrmerge.experts.batches import length_batches, plan_batches
from asrmerge.experts.moments import MOMENTS_FILE, MomentsHeader, write_moments
from asrmerge.experts.perturbation import change_speed
from asrmerge.experts.settings import FinetuneSettings
from asrmerge.experts.transcripts import TranscriptStyle, restyle
from asrmerge.files import atomic_folder, write_json
from asrmerge.recognizers.recognizer import CachingRecognizer, Precision, Recognizer, load_recognizer
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.manifest import Utterance

TRAINING_FILE = "training.json"
_VALIDATION_SECONDS = 240.0
_CACHE_BYTES = 3 << 30


@dataclass(frozen=True)
class TrainingAudio:
    """What an expert learns from: its domain, general speech to replay (may be empty), and its validation utterances."""

    domain: Sequence[Utterance]
    general: Sequence[Utterance]
    validation: Sequence[Utterance]


@dataclass
class TrainingRecord:
    """How a fine-tuning went: losses by step; ``best_step`` is what was kept; ``utterances`` counts repeats."""

    seed: int
    steps: int = 0
    best_step: int = 0
    utterances: int = 0
    audio_seconds: float = 0.0
    loss: list[tuple[int, float]] = field(default_factory=list)
    validation_loss: list[tuple[int, float]] = field(default_factory=list)


def finetune(
    base: str,
    audio: TrainingAudio,
    output: Path,
    settings: FinetuneSettings,
    *,
    seed: int,
    steps: int | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingRecord:
    """Fine-tune ``base`` and write the best checkpoint by validation loss to ``output``, float32, atomically.

    Beside it lie ``training.json`` and AdamW's second moments after the last step, half as large as what was trained.

    Args:
        steps: at most; ``settings.steps`` by default.
        on_step: called with the steps done and the steps at most.

    Raises:
        CheckpointError: ``base`` cannot be loaded.
        ManifestError: there is no training or validation audio, or none that fits the model's window.
        AudioError: an audio file cannot be read.
    """
    accelerator = Accelerator(cpu=device == "cpu")
    set_seed(seed)
    recognizer = load_recognizer(base, device=accelerator.device, precision=precision)
    audio = _fitting(audio, recognizer, settings.transcripts)
    total = steps or settings.steps
    trained = _freeze(recognizer, settings.freeze)
    adam = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _rate(step, total, settings.warmup))
    plan = plan_batches(
        audio.domain, audio.general, steps=total, seconds=settings.batch_seconds, replay=settings.replay, seed=seed
    )
    loader: DataLoader[Any] = DataLoader(plan, batch_size=None, collate_fn=None)  # type: ignore[arg-type]
    module, optimizer, loader, schedule = accelerator.prepare(_Loss(recognizer), adam, loader, schedule)
    inputs = _Inputs(recognizer, cached=settings.freeze == "encoder")
    speeds = _Speeds(settings.speed, seed)
    record = TrainingRecord(seed=seed)
    judge = _Judge(recognizer, inputs, audio.validation, settings, record)
    judge.look(0)
    recent: list[float] = []
    for step, batch in enumerate(loader, start=1):
        recognizer.model.train()
        loss = module(inputs.of(batch, speeds))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, settings.gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(float(loss.detach()))
        record.steps = step
        record.utterances += len(batch)
        record.audio_seconds += sum(utterance.duration for utterance in batch)
        on_step(step, total)
        if step % settings.evaluate_every == 0 or step == total:
            record.loss.append((step, round(float(np.mean(recent)), 6)))
            recent.clear()
            if judge.look(step):
                break
    judge.restore()
    if accelerator.is_main_process:
        moments = MomentsHeader(
            steps=record.steps,
            kept_step=record.best_step,
            beta2=adam.defaults["betas"][1],
            utterances_per_step=accelerator.num_processes * record.utterances / record.steps,
            gradient_norm=settings.gradient_norm,
        )
        _save(recognizer, output, record, settings, lambda path: write_moments(path, recognizer.model, adam, moments))
    return record


class _Loss(nn.Module):
    """The recogniser's loss as a module's ``forward``, so that a distributed wrapper sees every step."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.model = recognizer.model
        self._loss = recognizer.loss

    def forward(self, arguments: Mapping[str, Any]) -> Tensor:
        return self._loss(**arguments)


class _Inputs:
    """Batches of utterances as arguments of ``Recognizer.loss``; encoder states are kept when the encoder is frozen."""

    def __init__(self, recognizer: Recognizer, *, cached: bool) -> None:
        self._recognizer = recognizer
        self._encoder = recognizer if cached and isinstance(recognizer, CachingRecognizer) else None
        self._states: dict[Path, Tensor] = {}
        self._bytes = 0

    def of(self, batch: Sequence[Utterance], speeds: _Speeds | None = None) -> dict[str, Any]:
        labels = self._recognizer.labels([utterance.text for utterance in batch])
        if self._encoder is not None:
            states = torch.cat([self._encoded(utterance) for utterance in batch])
            return {"batch": {"labels": labels}, "encoder_states": states}
        samples = [read_utterance(utterance, self._recognizer.sampling_rate) for utterance in batch]
        if speeds is not None:
            samples = speeds.change(samples, self._recognizer)
        return {"batch": {**self._recognizer.features(samples), "labels": labels}}

    def _encoded(self, utterance: Utterance) -> Tensor:
        assert self._encoder is not None
        states = self._states.get(utterance.audio)
        if states is None:
            states = self._encoder.encode([read_utterance(utterance, self._recognizer.sampling_rate)])
            self._bytes += states.nbytes
            if self._bytes <= _CACHE_BYTES:
                self._states[utterance.audio] = states
        return states


class _Speeds:
    """Plays training audio at random speeds, never longer than the model's window."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._generator = np.random.default_rng(seed)

    def change(self, audio: Sequence[np.ndarray], recognizer: Recognizer) -> list[np.ndarray]:
        if not self._share:
            return list(audio)
        longest = int((recognizer.window_seconds or 3600) * recognizer.sampling_rate)
        changed = []
        for samples in audio:
            factor = max(self._generator.uniform(1 - self._share, 1 + self._share), len(samples) / longest)
            changed.append(change_speed(samples, factor)[:longest])  # resampling rounds its length up
        return changed


class _Judge:
    """Looks at the validation loss, keeps the best weights, says when to stop."""

    def __init__(
        self,
        recognizer: Recognizer,
        inputs: _Inputs,
        validation: Sequence[Utterance],
        settings: FinetuneSettings,
        record: TrainingRecord,
    ) -> None:
        self._recognizer, self._inputs, self._settings, self._record = recognizer, inputs, settings, record
        chosen, seconds = [], 0.0
        for utterance in validation:
            if seconds < _VALIDATION_SECONDS:
                chosen.append(utterance)
                seconds += utterance.duration
        self._batches = length_batches(chosen, settings.batch_seconds)
        self._best = math.inf
        self._kept: dict[str, Tensor] = {}
        self._flat = 0

    @torch.no_grad()
    def look(self, step: int) -> bool:
        """Measure after ``step``; True when nothing has improved for long enough."""
        self._recognizer.model.eval()
        total = sum(float(self._recognizer.loss(**self._inputs.of(batch))) * len(batch) for batch in self._batches)
        loss = total / sum(len(batch) for batch in self._batches)
        self._record.validation_loss.append((step, round(loss, 6)))
        improved = loss < self._best * (1 - self._settings.improvement)
        self._flat = 0 if improved else self._flat + 1
        if loss < self._best:
            self._best, self._record.best_step = loss, step
            parameters = self._recognizer.model.named_parameters()
            self._kept = {name: value.detach().clone() for name, value in parameters if value.requires_grad}
        return self._flat >= self._settings.patience

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back."""
        for name, parameter in self._recognizer.model.named_parameters():
            if name in self._kept:
                parameter.copy_(self._kept[name])


def _rate(step: int, total: int, warmup: float) -> float:
    """Linear rise, cosine fall; as a factor."""
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def _freeze(recognizer: Recognizer, what: Literal["nothing", "frontend", "encoder"]) -> list[nn.Parameter]:
    """Stop the gradients of what stays as it is; returns the parameters that are trained."""
    base = recognizer.model.base_model
    decoder = getattr(base, "decoder", None)
    after_encoder = {id(parameter) for parameter in decoder.parameters()} if decoder is not None else set()
    names = set(recognizer.frontend_parameters()) if what != "nothing" else set()
    if what == "encoder":
        inside = {id(parameter) for parameter in base.parameters()} - after_encoder
        names |= {name for name, parameter in recognizer.model.named_parameters() if id(parameter) in inside}
    for name, parameter in recognizer.model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    return [parameter for parameter in recognizer.model.parameters() if parameter.requires_grad]


def _fitting(audio: TrainingAudio, recognizer: Recognizer, style: TranscriptStyle) -> TrainingAudio:
    """The utterances that fit the model's window, their texts in ``style``; those of which no text is left are left out."""
    window = recognizer.window_seconds or math.inf

    def fit(utterances: Sequence[Utterance]) -> list[Utterance]:
        styled = [replace(utterance, text=restyle(utterance.text, style)) for utterance in utterances]
        return [utterance for utterance in styled if utterance.duration <= window and utterance.text]

    fitting = TrainingAudio(fit(audio.domain), fit(audio.general), fit(audio.validation))
    for name, utterances in (("training", fitting.domain), ("validation", fitting.validation)):
        if not utterances:
            raise ManifestError(f"There is no {name} audio of at most {window:g} s to fine-tune on; give a manifest with some.")
    return fitting


def _save(
    recognizer: Recognizer,
    output: Path,
    record: TrainingRecord,
    settings: FinetuneSettings,
    write_moments_to: Callable[[Path], None],
) -> None:
    with atomic_folder(output) as temporary:
        recognizer.save(temporary / "checkpoint")
        for file in (temporary / "checkpoint").iterdir():
            file.rename(temporary / file.name)
        (temporary / "checkpoint").rmdir()
        write_json(temporary / TRAINING_FILE, {"settings": settings.model_dump(), **asdict(record)})
        write_moments_to(temporary / MOMENTS_FILE)
