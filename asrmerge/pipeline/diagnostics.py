"""Merged models beside their experts: activations collected on validation audio, and where they collapse."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from asrmerge import __version__
from asrmerge.config import RunConfig
from asrmerge.errors import AsrmergeError, ConfigError
from asrmerge.files import write_json
from asrmerge.inspection.diagnosis import Diagnosis
from asrmerge.pipeline.data import DomainData, content_key
from asrmerge.pipeline.stages import StageStore
from asrmerge.pipeline.statistics import plan_statistics, run_statistics
from asrmerge.progress import ProgressView
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.settings import StatisticsSettings

logger = logging.getLogger(__name__)
_UTTERANCES = 20  # of each domain: all models hear the same, so that ratios change by less than a hundredth with more


def diagnose_run(
    config: RunConfig,
    data: Mapping[str, DomainData],
    models: Mapping[str, str],
    merges: Sequence[str],
    hashes: Mapping[str, str],
    folder: Path,
    stages: StageStore,
    view: ProgressView,
) -> dict[str, Diagnosis]:
    """Each of ``merges`` beside the experts, on validation audio; written to ``folder/NAME.json``, a stage each.

    A diagnosis decides nothing: where there can be none, as of a family that does not show its likelihoods, the log says why and
    the run goes on without.

    Args:
        models: name → folder, of the base, the experts and the merges.
        hashes: of all their weights.
    """
    experts = {name: models[name] for name in config.domains}
    audio = {name: data[name].validation for name in experts}
    compared = {name: hashes[name] for name in ("base", *experts)}
    heard = {name: content_key(utterances) for name, utterances in audio.items()}
    inputs: dict[str, dict[str, Any]] = {
        name: {
            "version": __version__,
            "merged": hashes[name],
            "models": compared,
            "validation": heard,
            "utterances": _UTTERANCES,
            "seed": config.seed,
        }
        for name in merges
    }
    files = {name: folder / f"{name}.json" for name in merges}
    missing = {name: models[name] for name in merges if not stages.is_done(f"diagnostics/{name}", inputs[name], [files[name]])}
    found: dict[str, Diagnosis] = {}
    if missing:
        settings = StatisticsSettings(kinds=("activations",), utterances=_UTTERANCES, seed=config.seed)
        try:
            found = diagnose_merges(
                missing, experts, models["base"], audio, folder, settings, workers=config.workers, device=config.device, view=view
            )
        except AsrmergeError as error:
            logger.warning("the merges are not diagnosed: %s", error)
    for name, diagnosis in found.items():
        content = diagnosis.model_dump(mode="json")
        stages.run(f"diagnostics/{name}", inputs[name], [files[name]], partial(write_json, files[name], content))
        logger.info("%s: %s", name, diagnosis.sentence)
    done = [name for name in merges if name in found or name not in missing]
    return {name: found.get(name) or Diagnosis.model_validate_json(files[name].read_bytes()) for name in done}


def diagnose_merges(
    merges: Mapping[str, str],
    experts: Mapping[str, str],
    base: str | None,
    audio: Mapping[str, Sequence[Utterance]],
    folder: Path,
    settings: StatisticsSettings,
    *,
    workers: int,
    view: ProgressView,
    device: str = "cpu",
    language: str | None = None,
) -> dict[str, Diagnosis]:
    """Collect activations into ``folder``, as far as they are not there yet, and compare.

    Args:
        audio: domain, called as its expert → utterances. Experts hear their own, merges all of them.
        settings: of the collection, of activations alone.

    Raises:
        ConfigError: audio of no expert's name, or models of a family that cannot show its activations.
        CheckpointError: a model is missing or corrupt, holds NaN or Inf, or is of another architecture.
        ManifestError: no utterance of a domain can be used.
        StatisticsError: a model's activations are not finite.
    """
    from asrmerge.inspection.diagnosing import diagnose, open_compared

    if unknown := [name for name in audio if name not in experts]:
        raise ConfigError(f"the audio {unknown[0]} has no expert of that name: name it after one of {', '.join(experts)}.")
    compared = {name: open_compared(source, experts, base) for name, source in merges.items()}
    homes = {name: experts[name] for name in audio}
    options: dict[str, Any] = {"device": device, "language": language}
    # Merges first: they hear the most.
    jobs = plan_statistics(merges, audio, folder / "merges", settings, every_domain=True, **options)
    jobs += plan_statistics(homes, audio, folder / "experts", settings, **options)
    run_statistics(jobs, workers=workers, view=view)
    at_home = {domain: folder / "experts" / domain for domain in audio}
    return {
        name: diagnose(
            models,
            {domain: folder / "merges" / name / domain for domain in audio},
            at_home,
            view.task(f"comparing {name} with its experts"),
        )
        for name, models in compared.items()
    }
