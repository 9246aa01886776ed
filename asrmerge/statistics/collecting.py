"""Collecting the statistics of one model on one domain's audio: streaming, resumable, an artefact for each kind."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asrmerge import __version__
from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import AsrmergeError, ManifestError, StatisticsError
from asrmerge.files import hash_content
from asrmerge.merging.artefact import Header, read_header, write_statistics
from asrmerge.merging.statistics import statistics_file
from asrmerge.recognizers.computing import evaluating
from asrmerge.recognizers.fast_linear import fast_linear
from asrmerge.recognizers.hearing import forward_batches, read_within_window
from asrmerge.speech.audio import hash_audio
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.collectors import Collector, make_collectors
from asrmerge.statistics.modules import remove_weight_norms
from asrmerge.statistics.partial import Partial
from asrmerge.statistics.settings import Kind, StatisticsSettings
from asrmerge.statistics.subject import Subject
from asrmerge.statistics.watching import Watch, Watcher, look_at

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


def statistics_key(subject: Subject, utterances: Sequence[Utterance]) -> tuple[str, str]:
    """Changes with the weights, the prompt, or the audio and its texts; and the hash of the latter alone.

    Audio is what is heard, wherever it is stored.

    Raises:
        AudioError: an audio file cannot be read.
    """
    data = hash_content([[one.identifier, one.text, _hash_utterance(one)] for one in utterances])
    return hash_content([subject.hash, subject.recognizer.decoding_settings().generation, data]), data


def collect_statistics(
    subject: Subject,
    utterances: Sequence[Utterance],
    folder: Path,
    settings: StatisticsSettings,
    *,
    keep_every: float = 30.0,
    on_utterance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Kind, Header]:
    """Write ``folder/KIND.safetensors`` for each kind that is not there yet; the headers of all.

    A killed run goes on where it last wrote its sums. The model's weight-normed weights become plain ones.

    Args:
        keep_every: seconds after which the sums so far are written, more where that takes long; 0: after every batch.
        on_utterance: called with the utterances done and their number.

    Raises:
        ManifestError: no utterance can be used.
        AudioError: an audio file cannot be read.
        StatisticsError: no gradient was finite.
    """
    chosen = _choose(utterances, settings)
    key, data = statistics_key(subject, chosen)
    missing = missing_kinds(folder, settings, key)
    if missing:
        work = settings.model_copy(update={"kinds": tuple(missing)})
        remove_weight_norms(subject.recognizer.model)
        partial = Partial(folder, hash_content([__version__, key, work.model_dump()]), keep_every)
        with evaluating(subject.recognizer.model), fast_linear(subject.recognizer.model):
            collection = _Collection(subject, chosen, work, partial)
            collection.run(on_utterance)
        for collector in collection.collectors:
            tensors, positions = collector.result(max(collection.tally.gradients, 1))
            header = collection.header(collector, positions, data, _key_of(collector.kind, settings, key))
            if header.note:
                logger.warning("%s of %s: %s", collector.kind, subject.label, header.note)
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
        # Of two rows, so that what all rows of a batch have in common can be told from what each has.
        self._look = look_at(self._recognizer, self._batch([self._utterances[0]] * 2)[0])
        self.collectors = make_collectors(self._recognizer.model, settings, self._look.shares)
        named = dict(self._recognizer.model.named_parameters())
        for name in named.keys() & set(settings.unchanged):
            named[name].requires_grad_(False)  # what lies before all that is left needs no backward pass
        trained = {name: value for name, value in named.items() if value.requires_grad}
        self._parameters = trained if "fisher" in settings.kinds else {}

    def run(self, on_utterance: Callable[[int, int], None]) -> None:
        batches = self._plan()
        if (restored := self.partial.read(self.collectors, self._recognizer.model.device)) is not None:
            self.tally = _Tally(**restored)
        watcher = Watcher(self._recognizer, self.collectors, self._look.sequences, self.settings.padding_every)
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
        drawn = kind in ("fisher", "factors") and settings.fisher == "sampled"
        padded = any(self._recognizer.hears_padding(module) for module in positions)
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
            padding_weight=(1 / settings.padding_every if settings.padding_every else 0.0) if padded else None,
            positions=positions,
            note=_too_little_audio(collector.sums, positions) if kind == "grams" else "",
            unchanged=settings.unchanged if kind != "activations" else (),
            shares=dict(self._look.shares) if kind == "grams" else {},
            lacking=collector.lacking,
            asrmerge=__version__,
        )

    def _usable(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Without those that are too short or too long, which are named in the header."""
        if not utterances:
            raise ManifestError(f"There is no audio for statistics of {self.subject.label}: give some.")
        window = self._recognizer.window_seconds
        kept = []
        for one in utterances:
            if one.duration < _SHORTEST_SECONDS:
                self.tally.skipped[one.identifier] = "shorter than a frame"
            elif window is not None and one.duration > window:
                self.tally.skipped[one.identifier] = f"longer than the model's window of {window:g} s"
            elif (problem := self._text_problem(one)) is not None:
                self.tally.skipped[one.identifier] = problem
            else:
                kept.append(one)
        if not kept:
            raise ManifestError(
                f"None of the {len(utterances)} utterances can be used for statistics of {self.subject.label}: the first is "
                f"{self.tally.skipped[utterances[0].identifier]}; give other audio."
            )
        return kept

    def _text_problem(self, utterance: Utterance) -> str | None:
        try:
            self._recognizer.labels([utterance.text])
        except ManifestError:
            return "its text is longer than the decoder"
        return None

    def _plan(self) -> list[list[int]]:
        """Batches of utterances; where gradients are taken, each is a batch of its own."""
        if self.settings.gradients:
            return [[index] for index in range(len(self._utterances))]
        lengths = [round(one.duration * self._recognizer.sampling_rate) for one in self._utterances]
        return forward_batches(self._recognizer, lengths, self.settings.batch_seconds)

    def _batch(self, utterances: Sequence[Utterance]) -> tuple[dict[str, Tensor], list[int]]:
        audio = [read_within_window(self._recognizer, one) for one in utterances]
        labels = self._recognizer.labels([one.text for one in utterances])
        return {**self._recognizer.features(audio), "labels": labels}, [len(samples) for samples in audio]

    def _observe(self, watcher: Watcher, utterances: Sequence[Utterance]) -> None:
        batch, samples = self._batch(utterances)
        with watcher.watching(batch, samples) as watch, torch.set_grad_enabled(self.settings.gradients):
            logits = self._recognizer.logits(batch)
            finite = torch.isfinite(logits).flatten(1).all(1).tolist()
            if not all(finite):
                raise StatisticsError(
                    f"{self.subject.label} gives NaN or Inf for {utterances[finite.index(False)].identifier}: the training "
                    "diverged; take an earlier checkpoint."
                )
            problem = self._backward(watcher, watch, logits, utterances[0]) if self.settings.gradients else None
        if problem is not None:
            self.tally.skipped[utterances[0].identifier] = problem
        else:
            self.tally.utterances += len(utterances)
            self.tally.seconds += sum(one.duration for one in utterances)

    def _backward(self, watcher: Watcher, watch: Watch, logits: Tensor, utterance: Utterance) -> str | None:
        """Tell of the gradients of one utterance's draws; why there were none, if so."""
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
            elif watcher.gradients(watch, loss, self._parameters, again=draw + 1 < draws):
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


def _too_little_audio(sums: Mapping[str, Tensor], positions: Mapping[str, float]) -> str:
    """Says how many Gram matrices cannot have full rank; empty if none."""
    short = [name for name, count in positions.items() if count < len(sums[name])]
    if not short:
        return ""
    return (
        f"{len(short)} of {len(positions)} linear maps were heard at fewer positions than they have inputs ({short[0]}: "
        f"{positions[short[0]]:.0f} and {len(sums[short[0]]) - 1}), so that their Gram matrices are singular; merges regularise "
        "them, more audio is better"
    )


def _choose(utterances: Sequence[Utterance], settings: StatisticsSettings) -> list[Utterance]:
    """As many as are asked for, drawn by the seed, in the corpus's order."""
    if settings.utterances is None or len(utterances) <= settings.utterances:
        return list(utterances)
    order = np.random.default_rng(settings.seed).permutation(len(utterances))
    return [utterances[index] for index in sorted(order[: settings.utterances])]


def _hash_utterance(utterance: Utterance) -> str:
    if utterance.start is None:
        return hash_audio(utterance.audio)
    return hash_audio(utterance.audio, start=utterance.start, duration=utterance.duration)


def _seed(seed: int, identifier: str, draw: int) -> int:
    """Of one draw of one utterance: the same in whatever order utterances come."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{identifier}/{draw}".encode()).digest()[:7], "big")


def _key_of(kind: Kind, settings: StatisticsSettings, key: str) -> str:
    """Changes with what decides the values of one kind."""
    fields: dict[Kind, tuple[str, ...]] = {
        "fisher": ("fisher", "draws", "seed", "unchanged"),
        "grams": ("padding_every", "widest", "unchanged"),
        "factors": ("fisher", "draws", "seed", "padding_every", "widest", "unchanged"),
        "activations": ("padding_every",),
    }
    used = fields[kind]
    return hash_content([__version__, kind, key, settings.model_dump(include=set(used))])


def _known_key(path: Path) -> str:
    try:
        header = read_header(SafetensorsReader(path)) if path.is_file() else None
    except AsrmergeError:
        return ""  # it is made anew
    return header.key if header is not None else ""
