"""A run's audio: manifests of every domain and split, synthesised where the configuration says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrmerge.config import DataSource, GeneralSource, RunConfig, SynthesisSource
from asrmerge.errors import ManifestError
from asrmerge.files import hash_content
from asrmerge.pipeline.workers import Report, Task, run_tasks
from asrmerge.progress import ProgressView
from asrmerge.speech.domains import load_domain, synthesize_domain
from asrmerge.speech.grammar import SPLITS, Split
from asrmerge.speech.manifest import Utterance, read_manifest

GENERAL = "general"


@dataclass(frozen=True)
class DomainData:
    """One domain's utterances by split (empty where there are none)."""

    name: str
    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]

    def split(self, split: Split) -> tuple[Utterance, ...]:
        utterances: tuple[Utterance, ...] = getattr(self, split)
        return utterances


def prepare_data(config: RunConfig, view: ProgressView) -> dict[str, DomainData]:
    """The data of every domain, in the configuration's order, then of general speech.

    Raises:
        ConfigError, ManifestError, SynthesisError: with the place and the remedy.
    """
    sources: dict[str, DataSource | GeneralSource] = dict(config.domains)
    if config.general is not None:
        sources[GENERAL] = config.general
    # Manifests are read, and with that checked, before any speech is synthesised.
    given = {name: _read(name, source) for name, source in sources.items() if source.synthesize is None}
    made = _synthesize({name: source.synthesize for name, source in sources.items() if source.synthesize}, config, view)
    return {name: given.get(name) or made[name] for name in sources}


def content_key(utterances: Sequence[Utterance]) -> str:
    """Changes when a transcript, a file's size or its time of change does; cheap enough for every start."""
    return hash_content([_identity(utterance) for utterance in utterances])


def _identity(utterance: Utterance) -> list[Any]:
    try:
        status = utterance.audio.stat()
        file = [status.st_size, status.st_mtime_ns]
    except OSError:  # missing audio is reported by whoever reads it
        file = []
    part = [utterance.start, utterance.duration] if utterance.start is not None else []
    return [
        utterance.identifier,
        utterance.text,
        utterance.speaker,
        str(utterance.audio),
        *file,
        *part,
    ]


def _read(name: str, source: DataSource | GeneralSource) -> DomainData:
    def utterances(path: str | None) -> tuple[Utterance, ...]:
        return read_manifest(Path(path).expanduser(), domain=name) if path else ()

    return DomainData(name, utterances(source.train), utterances(source.validation), utterances(source.test))


def _synthesize(sources: dict[str, SynthesisSource], config: RunConfig, view: ProgressView) -> dict[str, DomainData]:
    cache = Path(config.cache).expanduser() / "speech"
    tasks = [
        Task(f"speech of {name}", synthesize_task, {"name": name, "source": source, "cache": cache})
        for name, source in sources.items()
    ]
    return {data.name: data for data in run_tasks(tasks, config.workers, view)}


def synthesize_task(report: Report, name: str, source: SynthesisSource, cache: Path) -> DomainData:
    """One domain's speech, in a worker."""
    counts: dict[Split, int] = {split: getattr(source, split) for split in SPLITS}
    total = sum(counts.values())
    manifests = synthesize_domain(
        load_domain(source.domain),
        counts,
        cache,
        maximum_seconds=source.maximum_seconds,
        on_utterance=counter(report, total),
    )
    splits = {split: read_manifest(manifests[split], domain=name) if split in manifests else () for split in SPLITS}
    if not splits["validation"] or not splits["test"]:
        raise ManifestError(f"{manifests}: the speech of '{name}' has no validation or test utterances; ask for some.")
    return DomainData(name, splits["train"], splits["validation"], splits["test"])


def counter(report: Report, total: int) -> Callable[[], None]:
    """To be called for each utterance; every twentieth and the last are reported."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done % 20 == 0 or done == total:
            report(done, total)

    return count
