"""The statistics that a run's search needs: of every expert on its domain's audio, of the base on general speech."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asrmerge.config import RunConfig
from asrmerge.files import hash_content
from asrmerge.pipeline.data import GENERAL, DomainData
from asrmerge.pipeline.statistics import plan_statistics, run_statistics
from asrmerge.progress import ProgressView
from asrmerge.search.candidate import statistics_of
from asrmerge.search.scoring import BASE
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.settings import KINDS, StatisticsSettings


def collect_for_search(
    config: RunConfig,
    data: Mapping[str, DomainData],
    base: str,
    experts: Mapping[str, str],
    folder: Path,
    view: ProgressView,
) -> dict[str, str]:
    """Expert, or ``base`` → folder of its statistics; none where no method of the search needs any.

    What is there already of the same models, audio and settings is not made again.
    """
    needed = {*statistics_of(config.search.method_names), *config.statistics.kinds}
    if not needed:
        return {}
    kinds = tuple(kind for kind in KINDS if kind in needed)
    chosen = config.statistics.model_dump() | {"kinds": kinds, "seed": config.statistics.seed or config.seed}
    settings = StatisticsSettings.model_validate(chosen)
    heard = {name: _heard(data[name]) for name in experts}
    jobs = plan_statistics(experts, heard, folder, settings, base=base, device=config.device)
    if GENERAL in data and "fisher" in needed:
        of_base = jobs[0].settings.model_copy(update={"kinds": ("fisher",)})
        jobs += plan_statistics({BASE: base}, {BASE: _heard(data[GENERAL])}, folder, of_base, device=config.device)
    run_statistics(jobs, workers=config.workers, view=view)
    return {job.name: str(folder / job.name) for job in jobs}


def statistics_hash(folder: Path) -> str:
    """Of all statistics in a folder: changes with what they are of."""
    from asrmerge.checkpoints.safetensors_file import SafetensorsReader  # here, because they bring torch
    from asrmerge.merging.artefact import read_header

    headers = [read_header(SafetensorsReader(path)) for path in sorted(folder.glob("[!.]*.safetensors"))]
    return hash_content([header.key for header in headers if header is not None])


def _heard(data: DomainData) -> tuple[Utterance, ...]:
    """Training audio, which the experts know; validation audio where there is none."""
    return data.train or data.validation
