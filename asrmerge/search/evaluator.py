"""What candidates make of the validation audio, in this process or in several."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from asrmerge.checkpoints import Checkpoint, check_compatible
from asrmerge.errors import ConfigError, SearchError
from asrmerge.evaluation.counts import ErrorCounts, count_errors
from asrmerge.evaluation.normalizers import normalizer as get_normalizer
from asrmerge.recognizers import Precision
from asrmerge.search.blocks import ALL_AT_ONCE, AudioPlan, plan_audio
from asrmerge.search.candidate import Candidate, CandidateError
from asrmerge.search.outcome import Asked
from asrmerge.search.ray_pool import RayPool
from asrmerge.search.scoring import Scorer, ScoringJob, make_shards, one_thread
from asrmerge.search.waiting_tasks import Task
from asrmerge.search.workers import WorkerPool
from asrmerge.speech.manifest import Utterance

Texts = Mapping[str, tuple[str, ...]]  # domain → transcripts, in the order of the plan's block
Losses = Mapping[str, tuple[float, ...]]  # likewise, −log p(text | audio) in nats

_DISK_SHARE = 0.5  # of what is free, for encoder states


class CandidateEvaluator:
    """Evaluates candidates as a context manager: ``with CandidateEvaluator(…) as evaluate: counts = evaluate(candidate)``.

    Each process holds the base, (1 + number of experts) × the model in float32, and the validation audio. Where no expert has
    changed the encoder, its states are computed once, into files that all processes map (Whisper-tiny: 2.3 MB an utterance). The
    files are deleted as soon as they are mapped, so a kill leaves none. Of candidates with weights by group, those whose encoders
    come out the same share its states, too, in each process' memory.
    """

    def __init__(
        self,
        base: str | Path,
        experts: Mapping[str, str | Path],
        validation: Mapping[str, Sequence[Utterance]] | AudioPlan,
        *,
        normalizer: str = "whisper",
        workers: int | None = 1,
        ray: str | None = None,
        precision: Precision = "float32",
        device: str = "cpu",
        language: str | None = None,
        batch_seconds: float = 60.0,
        statistics: Mapping[str, str | Path] | None = None,
        scratch: Path | None = None,
    ) -> None:
        """Args:
            base: folder or hub id, as are the experts.
            validation: domain → utterances, or the plan by which they are heard.
            normalizer: of references and transcripts, by name.
            workers: processes; up to one, the work is done in this process. The results are the same. None stands for one or, on
                a cluster, for as many as it has room for.
            ray: address of a Ray cluster that does the work instead of processes of this machine.
            batch_seconds: of audio that goes through the model together.
            statistics: expert, or ``base`` → folder of its statistics, for methods that need them.
            scratch: folder on the disk that holds encoder states; the system's temporary folder by default.

        Raises:
            ConfigError: nothing to merge, a domain without utterances, an unknown normaliser.
        """
        if not experts:
            raise ConfigError("there is nothing to merge: name at least one expert.")
        plan = validation if isinstance(validation, AudioPlan) else plan_audio(validation, fractions=ALL_AT_ONCE)
        for domain, utterances in plan.utterances.items():
            if not utterances:
                raise ConfigError(f"the domain '{domain}' has no validation utterances: add some, or leave the domain out.")
        self.plan = plan
        self._normalize = get_normalizer(normalizer)
        self._sources = {"base": base, **{f"expert {name}": source for name, source in experts.items()}}
        self._settings: dict[str, Any] = {
            "base": str(base),
            "experts": {name: str(source) for name, source in experts.items()},
            "shards": make_shards(plan, batch_seconds),
            "precision": precision,
            "device": device,
            "language": language,
            "batch_seconds": batch_seconds,
            "statistics": {name: str(folder) for name, folder in (statistics or {}).items()},
        }
        self._workers, self._ray = workers, ray
        self._scratch = scratch
        self._pool: WorkerPool | RayPool | _InProcess | None = None

    def __enter__(self) -> CandidateEvaluator:
        """Load the models, and run the encoder if once is enough.

        Raises:
            CheckpointError: a model is missing or corrupt, or the experts do not fit the base.
            AudioError: an audio file cannot be read.
            SearchError: a worker process died, or the cluster cannot be used.
        """
        check_compatible([Checkpoint.open(source) for source in self._sources.values()], list(self._sources))
        if self._ray is not None:
            self._pool = RayPool(ScoringJob(states=None, **self._settings), self._ray, self._workers)
            return self
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix="asrmerge-states-", dir=self._scratch) as folder:
                job = ScoringJob(states=Path(folder), **self._settings)
                workers = min(self._workers or 1, len(job.shards))
                pool = WorkerPool(job, workers) if workers > 1 else _InProcess(job)
                self._pool = pool
                if pool.encoder_is_shared:
                    self._encode(pool, job)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, free the memory."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __call__(self, candidate: Candidate) -> dict[str, ErrorCounts]:
        """Pooled counts per domain, of all of the audio.

        Raises:
            CandidateError: its weights hold NaN or Inf.
            SearchError: a worker process died.
        """
        totals = dict.fromkeys(self.plan.utterances, ErrorCounts())
        for look, texts in enumerate(self.transcribe([(candidate, look) for look in range(self.plan.looks)])):
            if isinstance(texts, CandidateError):
                raise texts
            for domain, found in texts.items():
                for utterance, text in zip(self.plan.block(domain, look), found, strict=True):
                    totals[domain] += count_errors(self._normalize(utterance.text), self._normalize(text))
        return totals

    def transcribe(self, asked: Asked) -> list[Texts | CandidateError]:
        """What each candidate makes of a look's audio, or why it can make nothing of it; candidates run beside each other.

        Raises:
            SearchError: a worker process died.
        """
        return self._by_shard("transcribe", asked)

    def losses(self, asked: Asked) -> list[Losses | CandidateError]:
        """Likewise −log p(text | audio) in nats under teacher forcing; NaN where there is none (see ``Scorer.losses``).

        Raises:
            SearchError: a worker process died.
        """
        return self._by_shard("losses", asked)

    def _by_shard(self, work: str, asked: Asked) -> list[Any]:
        if self._pool is None:
            raise SearchError("the evaluator is not open: use it in a with block.")
        shards = self._settings["shards"]
        tasks = [
            (number, index)
            for number, (_, look) in enumerate(asked)
            for index in range(len(shards))
            if shards[index].look == look
        ]
        # Candidate by candidate, so that one process merges each once; of one the longest first, because what comes last decides
        # how long the others wait.
        order = sorted(tasks, key=lambda task: (task[0], -shards[task[1]].seconds, task[1]))
        found = dict(zip(order, self._pool.map([(work, asked[number][0], index) for number, index in order]), strict=True))
        return [self._collected(number, look, found) for number, (_, look) in enumerate(asked)]

    def _collected(self, number: int, look: int, found: Mapping[tuple[int, int], Any]) -> Any:
        """The results of one candidate's shards in the order of the plan."""
        by_utterance: dict[tuple[str, Utterance], Any] = {}
        for index, shard in enumerate(self._settings["shards"]):
            if shard.look != look:
                continue
            results = found[number, index]
            if isinstance(results, CandidateError):
                return results
            by_utterance |= {(shard.domain, one): value for one, value in zip(shard.utterances, results, strict=True)}
        domains = self.plan.utterances
        return {name: tuple(by_utterance[name, one] for one in self.plan.block(name, look)) for name in domains}

    def _encode(self, pool: WorkerPool | _InProcess, job: ScoringJob) -> None:
        first = min(range(len(job.shards)), key=lambda index: len(job.shards[index].utterances))
        [size] = pool.map([("encode", first)])
        utterances = sum(len(shard.utterances) for shard in job.shards)
        needed = size / len(job.shards[first].utterances) * utterances
        assert job.states is not None
        if needed > _DISK_SHARE * shutil.disk_usage(job.states).free:
            return  # encoding anew for each candidate is slower, but a full disk is worse
        pool.map([("encode", index) for index in range(len(job.shards)) if index != first])
        pool.broadcast(("map_states",))


class _InProcess:
    """The pool of no workers."""

    def __init__(self, job: ScoringJob) -> None:
        with one_thread():
            self._scorer: Scorer | None = Scorer(job)
        self.encoder_is_shared = self._scorer.encoder_is_shared

    def map(self, tasks: Sequence[Task]) -> list[Any]:
        with one_thread():
            return [getattr(self._scorer, name)(*arguments) for name, *arguments in tasks]

    def broadcast(self, task: Task) -> None:
        self.map([task])

    def close(self) -> None:
        self._scorer = None
