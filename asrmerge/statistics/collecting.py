"""Collecting the statistics of one model on one domain's audio: streaming, resumable, an artefact for each kind."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asrmerge import __version__
from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import AsrmergeError, ManifestError, StatisticsError
from asrmerge.files import hash_content
from asrmerge.merging.artefact import Header, Kind, read_header, write_statistics
from asrmerge.merging.statistics import statistics_file
from asrmerge.recognizers.batching import length_buckets
from asrmerge.recognizers.computing import evaluating
from asrmerge.speech.audio import read_utterance
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.collectors import Collector, make_collectors
from asrmerge.statistics.modules import remove_weight_norms
from asrmerge.statistics.partial import Partial
from asrmerge.statistics.settings import StatisticsSettings
from asrmerge.statistics.subject import Subject
from asrmerge.statistics.watching import Watch, Watcher, find_shares

logger = logging.getLogger(__name__)
_SHORTEST_SECONDS = 0.01  # a frame of features
_SKIPPED_SHOWN = 3


@dataclass
class _Tally:
    """What is done so far; with the collectors' sums, all of the state."""

    batches: int = 0
    utterances: int = 0
    gradients: int = 0
    seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)


def missing_kinds(folder: Path, settings: StatisticsSettings, key: str) -> list[Kind]:
    """The kinds that ``folder`` does not have yet, of this model, audio and settings."""
    return [kind for kind in settings.kinds if _known_key(statistics_file(folder, kind)) != _key_of(kind, settings, key)]


def statistics_key(model_hash: str, utterances: Sequence[Utterance]) -> tuple[str, str]:
    """Changes with the weights or the audio and its texts; and the hash of the latter alone."""
    data = hash_content([[one.identifier, one.text, str(one.audio), one.start, one.duration] for one in utterances])
    return hash_content([model_hash, data]), data


def collect_statistics(
    subject: Subject,
    utterances: Sequence[Utterance],
    folder: Path,
    settings: StatisticsSettings,
    *,
    on_utterance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Kind, Header]:
    """Write ``folder/KIND.safetensors`` for each kind that is not there yet; the headers of all.

    A killed run goes on where it last wrote its sums. The model's weight-normed weights become plain ones.

    Args:
        on_utterance: called with the utterances done and their number.

    Raises:
        ManifestError: no utterance can be used.
        AudioError: an audio file cannot be read.
        StatisticsError: no gradient was finite.
    """
    chosen = _choose(utterances, settings)
    key, data = statistics_key(subject.hash, chosen)
    missing = missing_kinds(folder, settings, key)
    if missing:
        work = settings.model_copy(update={"kinds": tuple(missing)})
        remove_weight_norms(subject.recognizer.model)
        collection = _Collection(subject, chosen, work, Partial(folder, hash_content([key, work.model_dump()])))
        with evaluating(subject.recognizer.model):
            collection.run(on_utterance)
        for collector in collection.collectors:
            tensors, positions = collector.result(max(collection.tally.gradients, 1))
            header = collection.header(collector, positions, data, _key_of(collector.kind, settings, key))
            write_statistics(statistics_file(folder, collector.kind), tensors, header)
        collection.partial.remove()
    headers = {kind: read_header(SafetensorsReader(statistics_file(folder, kind))) for kind in settings.kinds}
    return {kind: header for kind, header in headers.items() if header is not None}


class _Collection:
    """The pass over the audio."""

    def __init__(self, subject: Subject, utterances: Sequence[Utterance], settings: StatisticsSettings, partial: Partial) -> None:
        self.subject, self.settings, self.partial = subject, settings, partial
        self.tally = _Tally()
        self._recognizer = subject.recognizer
        self._utterances = self._usable(utterances)
        self._total = len(utterances)
        first = self._batch([self._utterances[0]])[0]
        self.shares = find_shares(self._recognizer, first) if "grams" in settings.kinds else {}
        self.collectors = make_collectors(self._recognizer.model, settings, self.shares)

    def run(self, on_utterance: Callable[[int, int], None]) -> None:
        batches = self._plan()
        if (restored := self.partial.read(self.collectors)) is not None:
            self.tally = _Tally(**restored)
        watcher = Watcher(self._recognizer, self.collectors, self.settings.padding_every)
        try:
            for batch in batches[self.tally.batches :]:
                self._observe(watcher, [self._utterances[index] for index in batch])
                self.tally.batches += 1
                on_utterance(self.tally.utterances + len(self.tally.skipped), self._total)
                self.partial.write_sometimes(self.collectors, vars(self.tally))
        finally:
            watcher.close()
        self._report_skipped()

    def header(self, collector: Collector, positions: dict[str, float], data: str, key: str) -> Header:
        settings, kind = self.settings, collector.kind
        drawn = settings.gradients and kind in ("fisher", "factors") and settings.fisher == "sampled"
        return Header(
            kind=kind,
            variant=settings.fisher if kind in ("fisher", "factors") else "",
            units=collector.units,
            model=self.subject.label,
            model_sha256=self.subject.hash,
            data_sha256=data,
            key=key,
            utterances=self.tally.utterances,
            seconds=round(self.tally.seconds, 3),
            skipped=self.tally.skipped,
            seed=settings.seed if drawn else None,
            draws=settings.draws if drawn else None,
            padding_weight=(1 / settings.padding_every if settings.padding_every else 0.0) if kind != "fisher" else None,
            positions=positions,
            shares=self.shares if kind == "grams" else {},
            lacking=collector.lacking,
            asrmerge=__version__,
        )

    def _usable(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Without those that are too short or too long, which are named in the header."""
        window = self._recognizer.window_seconds
        kept = []
        for one in utterances:
            if one.duration < _SHORTEST_SECONDS:
                self.tally.skipped[one.identifier] = "shorter than a frame"
            elif window is not None and one.duration > window:
                self.tally.skipped[one.identifier] = f"longer than the model's window of {window:g} s"
            else:
                kept.append(one)
        if not kept:
            raise ManifestError(
                f"None of the {len(utterances)} utterances can be used for statistics of {self.subject.label}: the first is "
                f"{self.tally.skipped[utterances[0].identifier]}; give other audio."
            )
        return kept

    def _plan(self) -> list[list[int]]:
        """Batches of utterances; where gradients are taken, each is a batch of its own."""
        if self.settings.gradients:
            return [[index] for index in range(len(self._utterances))]
        window, rate = self._recognizer.window_seconds, self._recognizer.sampling_rate
        lengths = [round((window or one.duration) * rate) for one in self._utterances]
        equal = not self._recognizer.padding_is_neutral()
        return length_buckets(lengths, batch_length=round(self.settings.batch_seconds * rate), equal=equal)

    def _batch(self, utterances: Sequence[Utterance]) -> tuple[dict[str, Tensor], list[int]]:
        rate = self._recognizer.sampling_rate
        window = self._recognizer.window_seconds
        audio = [read_utterance(one, rate) for one in utterances]
        if window is not None:
            audio = [samples[: int(window * rate)] for samples in audio]  # resampling rounds lengths up
        labels = self._recognizer.labels([one.text for one in utterances])
        return {**self._recognizer.features(audio), "labels": labels}, [len(samples) for samples in audio]

    def _observe(self, watcher: Watcher, utterances: Sequence[Utterance]) -> None:
        batch, samples = self._batch(utterances)
        with watcher.watching(batch, samples) as watch, torch.set_grad_enabled(self.settings.gradients):
            logits = self._recognizer.logits(batch)
            if not bool(torch.isfinite(logits).all()):
                raise StatisticsError(
                    f"{self.subject.label} gives NaN or Inf for {utterances[0].identifier}: the training diverged; take an "
                    "earlier checkpoint."
                )
            problem = self._backward(watcher, watch, logits, utterances[0]) if self.settings.gradients else None
        if problem is not None:
            self.tally.skipped[utterances[0].identifier] = problem
        else:
            self.tally.utterances += len(utterances)
            self.tally.seconds += sum(one.duration for one in utterances)

    def _backward(self, watcher: Watcher, watch: Watch, logits: Tensor, utterance: Utterance) -> str | None:
        """Tell of the gradients of one utterance's draws; why there were none, if so."""
        parameters = {name: value for name, value in self._recognizer.model.named_parameters() if value.requires_grad}
        draws = self.settings.draws if self.settings.fisher == "sampled" else 1
        found, problem = 0, "its gradients are not finite"
        for draw in range(draws):
            labels = watch.batch["labels"]
            if self.settings.fisher == "sampled":
                seed = _seed(self.settings.seed, utterance.identifier, draw)
                labels = self._recognizer.draw_labels(logits, watch.batch, torch.Generator().manual_seed(seed))
            loss = self._recognizer.negative_log_likelihoods(logits, watch.batch, labels).sum()
            if not bool(torch.isfinite(loss)):
                problem = "its text does not fit in its audio" if torch.isposinf(loss) else "its likelihood is not a number"
            elif watcher.gradients(watch, loss, parameters, again=draw + 1 < draws):
                found += 1
        self.tally.gradients += found
        if found:
            watcher.tell_calls(watch)
            return None
        return problem

    def _report_skipped(self) -> None:
        skipped = self.tally.skipped
        if not self.tally.utterances:
            raise StatisticsError(
                f"No utterance of {self.subject.label} gave statistics, {next(iter(skipped))} because "
                f"{next(iter(skipped.values()))}: check the model with asrmerge evaluate, and the texts."
            )
        if skipped:
            named = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:_SKIPPED_SHOWN])
            more = f"; and {len(skipped) - _SKIPPED_SHOWN} more" if len(skipped) > _SKIPPED_SHOWN else ""
            logger.warning("statistics of %s: %d utterances skipped (%s%s)", self.subject.label, len(skipped), named, more)


def _choose(utterances: Sequence[Utterance], settings: StatisticsSettings) -> list[Utterance]:
    """As many as are asked for, drawn by the seed, in the corpus's order."""
    if settings.utterances is None or len(utterances) <= settings.utterances:
        return list(utterances)
    order = np.random.default_rng(settings.seed).permutation(len(utterances))
    return [utterances[index] for index in sorted(order[: settings.utterances])]


def _seed(seed: int, identifier: str, draw: int) -> int:
    """Of one draw of one utterance: the same in whatever order utterances come."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{identifier}/{draw}".encode()).digest()[:7], "big")


def _key_of(kind: Kind, settings: StatisticsSettings, key: str) -> str:
    """Changes with what decides the values of one kind."""
    fields = {"fisher": ("fisher", "draws", "seed"), "factors": ("fisher", "draws", "seed", "padding_every", "widest")}
    used = fields.get(kind, ("padding_every", "widest"))
    return hash_content([__version__, kind, key, settings.model_dump(include=set(used))])


def _known_key(path: Path) -> str:
    try:
        header = read_header(SafetensorsReader(path)) if path.is_file() else None
    except AsrmergeError:
        return ""  # it is made anew
    return header.key if header is not None else ""
