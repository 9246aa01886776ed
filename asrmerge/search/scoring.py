"""Candidates in one process: the base loaded once, task vectors and audio in memory; transcripts and losses of each merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from asrmerge.checkpoints import Checkpoint
from asrmerge.checkpoints.finite import is_finite
from asrmerge.errors import AsrmergeError, ConfigError, OutputError
from asrmerge.merging import LiveMerge
from asrmerge.merging.statistics import ModelStatistics, load_statistics
from asrmerge.recognizers import CachingRecognizer, Precision, Recognizer, load_recognizer
from asrmerge.recognizers.computing import evaluating
from asrmerge.recognizers.fast_linear import fast_linear
from asrmerge.recognizers.hearing import forward_batches
from asrmerge.recognizers.recognizer import DifferentiableRecognizer
from asrmerge.search.blocks import AudioPlan
from asrmerge.search.candidate import Candidate, CandidateError
from asrmerge.search.encoder_states import EncoderStates, module_digest
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.manifest import Utterance

Audio = npt.NDArray[np.float32]

SHARD_BATCHES = 2
BASE = "base"  # in the statistics, whose the base's are
_BATCH_BYTES = 1 << 30  # of features that are kept for the next candidate's loss; beyond, they are computed again


@dataclass(frozen=True)
class Shard:
    """Utterances that one worker decodes: a part of a domain's block, about ``SHARD_BATCHES`` batches of similar length."""

    domain: str
    look: int
    utterances: tuple[Utterance, ...]

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return sum(utterance.duration for utterance in self.utterances)


def make_shards(plan: AudioPlan, batch_seconds: float = 60.0) -> tuple[Shard, ...]:
    """The blocks cut into shards; the same however many workers there are, so that their batches and results are too."""
    shards = []
    for domain in plan.utterances:
        for look in range(plan.looks):
            part: list[Utterance] = []
            for utterance in sorted(plan.block(domain, look), key=lambda one: (-one.duration, one.identifier)):
                if part and sum(one.duration for one in part) + utterance.duration > SHARD_BATCHES * batch_seconds:
                    shards.append(Shard(domain, look, tuple(part)))
                    part = []
                part.append(utterance)
            if part:
                shards.append(Shard(domain, look, tuple(part)))
    return tuple(shards)


@dataclass(frozen=True)
class ScoringJob:
    """Everything that a scorer is made from; travels to the worker processes."""

    base: str
    experts: Mapping[str, str]
    shards: tuple[Shard, ...]
    precision: Precision
    device: str
    language: str | None
    batch_seconds: float
    statistics: Mapping[str, str]  # folder of each expert's statistics, and of the base's, where methods need them
    states: Path | None  # folder for encoder states, until all workers have mapped them; None keeps them in each one's memory


class Scorer:
    """Merges candidates into the live model and lets it hear the audio, shard by shard."""

    def __init__(self, job: ScoringJob) -> None:
        """Raises:
        CheckpointError: a model cannot be loaded, or the experts do not fit the base.
        AudioError: an audio file cannot be read.
        """
        self._job = job
        self._recognizer: Recognizer = load_recognizer(
            job.base, device=job.device, precision=job.precision, language=job.language
        )
        states = {name: _state(source) for name, source in job.experts.items()}
        self.encoder_is_shared = _encoder_is_shared(self._recognizer, states)
        self._live = LiveMerge(self._recognizer.model, states, *_statistics(job))
        self._applied: tuple[Any, ...] | None = None
        self._audio: dict[int, list[Audio]] = {}
        self._states: dict[int, Tensor] = {}
        self._kept = EncoderStates()
        self._encoder: str | None = None  # of the applied candidate
        self._batches: dict[int, list[tuple[list[int], dict[str, Tensor]]]] = {}
        self._bytes = 0

    def encode(self, shard: int) -> int:
        """Write the base's encoder states of a shard, for every worker to use; how many bytes that took.

        Raises:
            AudioError: an audio file cannot be read.
        """
        self._live.restore()
        self._applied = None
        states = self._encode(shard)
        if not len(states):
            return 0
        save_file({"states": states}, self._states_file(shard))
        return states.nbytes

    def map_states(self) -> None:
        """Take up what all workers have encoded: mapped, not read, so that they share the pages; the files may go then."""
        for shard in range(len(self._job.shards)):
            if self._states_file(shard).exists():
                with safe_open(self._states_file(shard), framework="pt") as stored:
                    self._states[shard] = stored.get_tensor("states")

    def _encode(self, shard: int) -> Tensor:
        """States of what fits into the window, by the encoder as it is."""
        audio = self._read(shard)
        short = [audio[index] for index in self._short(audio)]
        recognizer = cast(CachingRecognizer, self._recognizer)
        return recognizer.encode(short, batch_seconds=self._job.batch_seconds).cpu().contiguous()

    def _encoder_states(self, shard: int) -> Tensor | None:
        """States of what fits into the window by the candidate's encoder; None where no other candidate could share them."""
        if shard in self._states:
            return self._states[shard]
        if self._encoder is None:
            return None
        return self._kept.get(self._encoder, shard, lambda: self._encode(shard))

    def transcribe(self, candidate: Candidate, shard: int) -> list[str] | CandidateError:
        """The texts of one shard, in the order of its utterances; or why the candidate can have none.

        Raises:
            AudioError: an audio file cannot be read.
        """
        try:
            self._apply(candidate)
        except CandidateError as error:  # given back rather than raised: the other candidates' tasks go on
            return error
        try:
            return self._transcribe(shard)
        except OutputError as error:
            return CandidateError(f"'{candidate.label}': {error}")

    def losses(self, candidate: Candidate, shard: int) -> list[float] | CandidateError:
        """−log p(text | audio) in nats of every utterance of one shard under teacher forcing; or why there can be none.

        NaN where the utterance is longer than the window, or its text cannot be a label.

        Raises:
            AudioError: an audio file cannot be read.
        """
        try:
            self._apply(candidate)
        except CandidateError as error:
            return error
        recognizer = cast(DifferentiableRecognizer, self._recognizer)
        found = [float("nan")] * len(self._job.shards[shard].utterances)
        states = self._encoder_states(shard)
        with torch.no_grad(), evaluating(recognizer.model), fast_linear(recognizer.model):
            for rows, batch in self._loss_batches(shard):
                arguments: dict[str, Any] = {"batch": batch}
                if states is not None:
                    places = {index: place for place, index in enumerate(self._short(self._read(shard)))}
                    own = states[[places[row] for row in rows]]
                    arguments["encoder_states"] = own.to(recognizer.model.device)
                logits = recognizer.logits(**arguments)
                values = recognizer.negative_log_likelihoods(logits, batch, batch["labels"])
                if bool(values.isnan().any()):
                    return CandidateError(f"the loss of '{candidate.label}' is NaN: its weights are too large.")
                for row, value in zip(rows, values.tolist(), strict=True):
                    found[row] = value
        return found

    def _loss_batches(self, shard: int) -> list[tuple[list[int], dict[str, Tensor]]]:
        """Rows of a shard and the batch of them."""
        if shard in self._batches:
            return self._batches[shard]
        recognizer = cast(DifferentiableRecognizer, self._recognizer)
        audio, utterances = self._read(shard), self._job.shards[shard].utterances
        rows = [index for index in self._short(audio) if _has_labels(recognizer, utterances[index].text)]
        batches = []
        for part in forward_batches(recognizer, [len(audio[row]) for row in rows], self._job.batch_seconds):
            chosen = [rows[index] for index in part]
            features = {} if self.encoder_is_shared else recognizer.features([audio[row] for row in chosen])
            batches.append((chosen, {**features, "labels": recognizer.labels([utterances[row].text for row in chosen])}))
        size = sum(tensor.nbytes for _, batch in batches for tensor in batch.values())
        if self._bytes + size <= _BATCH_BYTES:
            self._batches[shard] = batches
            self._bytes += size
        return batches

    def _apply(self, candidate: Candidate) -> None:
        key = candidate.key()
        if key == self._applied:
            return
        self._applied = None
        if candidate.kind == "base":
            self._live.restore()  # the base to the bit, in whatever type it is stored
        else:
            try:
                self._live.apply(candidate.method, candidate.weights, candidate.parameters, candidate.groups)
            except (torch.linalg.LinAlgError, ConfigError) as error:  # type: ignore[attr-defined]
                raise CandidateError(f"'{candidate.label}' cannot be merged: {error}") from error
            if not all(map(is_finite, self._recognizer.model.parameters())):
                raise CandidateError(f"the merged weights of '{candidate.label}' hold NaN or Inf.")
        self._applied = key
        if self.encoder_is_shared:
            self._encoder = BASE
        elif candidate.groups and isinstance(self._recognizer, CachingRecognizer):
            # Of others, weights that differ make encoders that differ.
            self._encoder = module_digest(self._recognizer.model.get_encoder())
        else:
            self._encoder = None

    def _transcribe(self, shard: int) -> list[str]:
        audio = self._read(shard)
        seconds = self._job.batch_seconds
        states = self._encoder_states(shard)
        if states is None:
            return self._recognizer.transcribe(audio, batch_seconds=seconds)
        short = self._short(audio)
        long = sorted(set(range(len(audio))) - set(short))
        caching = cast(CachingRecognizer, self._recognizer)
        parts = [audio[index] for index in short]
        cached = caching.transcribe(parts, batch_seconds=seconds, encoder_states=states)
        texts = dict(zip(short, cached, strict=True))
        if long:
            parts = [audio[index] for index in long]
            texts |= dict(zip(long, self._recognizer.transcribe(parts, batch_seconds=seconds), strict=True))
        return [texts[index] for index in range(len(audio))]

    def _read(self, shard: int) -> list[Audio]:
        if shard not in self._audio:
            rate = self._recognizer.sampling_rate
            self._audio[shard] = [read_utterance(one, rate) for one in self._job.shards[shard].utterances]
        return self._audio[shard]

    def _short(self, audio: Sequence[Audio]) -> list[int]:
        """Which fit into the window, so that encoder states can stand for them."""
        window = self._recognizer.window_seconds
        most = float("inf") if window is None else window * self._recognizer.sampling_rate
        return [index for index, samples in enumerate(audio) if len(samples) <= most]

    def _states_file(self, shard: int) -> Path:
        assert self._job.states is not None
        return self._job.states / f"{shard}.safetensors"


def _has_labels(recognizer: Recognizer, text: str) -> bool:
    try:
        recognizer.labels([text])
    except AsrmergeError:
        return False
    return True


@contextmanager
def one_thread() -> Iterator[None]:
    """One computing thread inside the block, as in a worker: sums over several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _state(source: str) -> dict[str, Tensor]:
    checkpoint = Checkpoint.open(source)
    return {name: checkpoint.read(name) for name in checkpoint.names}


def _statistics(job: ScoringJob) -> tuple[dict[str, ModelStatistics], ModelStatistics | None]:
    """Of every expert and of the base, whatever there is on disk."""
    folders = dict(job.statistics)
    base = folders.pop(BASE, None)
    found = {name: load_statistics(folder, Checkpoint.open(job.experts[name])) for name, folder in folders.items()}
    return found, None if base is None else load_statistics(base, Checkpoint.open(job.base))


def _encoder_is_shared(recognizer: Recognizer, states: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether encoder states of the base are those of every merge: no expert has changed the encoder."""
    if not isinstance(recognizer, CachingRecognizer):
        return False
    encoder = {id(parameter) for parameter in recognizer.model.get_encoder().parameters()}
    for name, parameter in recognizer.model.named_parameters():
        if id(parameter) not in encoder:
            continue
        base = parameter.detach()
        if not all(name in state and torch.equal(state[name].to(base), base) for state in states.values()):
            return False
    return True
