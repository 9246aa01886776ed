"""The test sets of an evaluation suite: read or synthesised, with the terms that matter in each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.content import shipped_domains
from asrmerge.errors import ManifestError
from asrmerge.evaluation.leakage import check_disjoint, near_duplicates
from asrmerge.evaluation.normalizers import Normalizer
from asrmerge.evaluation.terms import normalize_terms, read_terms
from asrmerge.pipeline.data import counter
from asrmerge.pipeline.workers import Report, Task, run_tasks
from asrmerge.progress import ProgressView
from asrmerge.speech.corpora import read_corpus
from asrmerge.speech.domains import load_domain, synthesize_domain
from asrmerge.speech.manifest import Utterance, is_file, read_manifest
from asrmerge.suite import EvaluationSet, Suite, SynthesisedSet

logger = logging.getLogger(__name__)

LEARNT_FILE = "learnt.jsonl"  # in a run's folder: the audio that its models were trained and tuned on
_NAMED = 3  # near-duplicates that are named in the log


def read_sets(suite: Suite, cache: Path, view: ProgressView, *, workers: int, decoded: bool) -> dict[str, tuple[Utterance, ...]]:
    """The utterances of every set, in the suite's order.

    Args:
        cache: a folder for speech that is synthesised, and for audio that isn't there as files.
        decoded: whether a model will transcribe them, which takes their audio.

    Raises:
        ManifestError, SynthesisError, ConfigError: with place and remedy.
    """
    given = {
        name: read_corpus(one.corpus, domain=name, cache=cache / "corpora", on_progress=view.task(f"reading {name}"))
        for name, one in suite.sets.items()
        if one.corpus is not None
    }
    for name, utterances in given.items():
        if decoded and not any(is_file(utterance.audio) for utterance in utterances):
            raise ManifestError(
                f"{suite.sets[name].corpus}: there is no audio, not even {utterances[0].audio}: it holds references alone; name "
                "the audio's folder by ',folder=FOLDER', or evaluate transcripts."
            )
    tasks = [
        Task(f"speech of {name}", synthesize_task, {"name": name, "source": one.synthesize, "cache": cache / "speech"})
        for name, one in suite.sets.items()
        if one.synthesize is not None
    ]
    made = dict(run_tasks(tasks, workers, view))
    return {name: given.get(name) or made[name] for name in suite.sets}


def synthesize_task(report: Report, name: str, source: SynthesisedSet, cache: Path) -> tuple[str, tuple[Utterance, ...]]:
    """One set's speech, in a worker."""
    domain = load_domain(source.domain)
    manifests = synthesize_domain(
        domain, {"test": source.test}, cache, maximum_seconds=source.maximum_seconds, on_utterance=counter(report, source.test)
    )
    return name, read_manifest(manifests["test"], domain=name)


def set_terms(sets: Mapping[str, EvaluationSet], normalize: Normalizer) -> dict[str, tuple[str, ...]]:
    """Normalised terms of the sets that have any: from their file, a shipped domain, or the domain they were synthesised from.

    Raises:
        ConfigError: a file cannot be read, or holds a term that can never be found.
    """
    found = {}
    for name, one in sets.items():
        if one.terms in shipped_domains():
            found[name] = domain_terms(str(one.terms), normalize)
        elif one.terms is not None:
            found[name] = read_terms(Path(one.terms).expanduser(), normalize)
        elif one.synthesize is not None:
            found[name] = domain_terms(one.synthesize.domain, normalize)
    return {name: terms for name, terms in found.items() if terms}


def domain_terms(domain: str, normalize: Normalizer) -> tuple[str, ...]:
    """Normalised terms of a shipped domain or a folder; without those of which nothing is left, as Whisper's leaves of "uh"."""
    return normalize_terms(load_domain(domain).terms, normalize)


def check_leakage(learnt: Sequence[Utterance], tested: Sequence[Utterance], *, skip_unreadable: bool = False) -> None:
    """Refuse test audio that was trained or tuned on; warn of what may be a copy of it.

    Raises:
        ManifestError: naming the test utterance and the one that was learnt.
    """
    check_disjoint(learnt, tested, skip_unreadable=skip_unreadable)
    near = near_duplicates(learnt, tested)
    for one in near[:_NAMED]:
        logger.warning("possibly learnt: %s", one)
    if len(near) > _NAMED:
        logger.warning("possibly learnt: %d test utterances in all; see that they are no copies", len(near))


def find_learnt(models: Sequence[str]) -> tuple[Path, ...]:
    """The lists of learnt audio of the runs that the models' folders are in."""
    folders = [Path(source).resolve() for source in models if Path(source).is_dir()]
    files = [parent / LEARNT_FILE for folder in folders for parent in list(folder.parents)[:2]]
    return tuple(dict.fromkeys(file for file in files if file.is_file()))
