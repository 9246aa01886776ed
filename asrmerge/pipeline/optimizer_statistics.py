"""Fisher information from the optimiser's state of each model, and how well it ranks beside a directly computed one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import ConfigError
from asrmerge.merging.references import open_model
from asrmerge.merging.statistics import statistics_file
from asrmerge.merging.structure import plan_places
from asrmerge.merging.units import plan_units, unit_shapes
from asrmerge.pipeline.statistics import Headers

DIRECT = "direct"  # the folder of what was computed on audio


def optimizer_statistics(
    models: Mapping[str, str],
    output: Path,
    states: Mapping[str, str],
    utterances_per_step: float | None,
    gradient_norm: float | None,
) -> dict[Path, Headers]:
    """Write ``output/NAME/fisher.safetensors`` of every model; the headers by folder.

    Args:
        states: model → file of its optimiser's state, where that is not beside it.

    Raises:
        ConfigError: a state of no model; otherwise as ``fisher_from_optimizer``.
        CheckpointError, IncompatibleError: as ``fisher_from_optimizer``.
    """
    from asrmerge.statistics.optimizer_state import fisher_from_optimizer

    for name in states:
        if name not in models:
            raise ConfigError(f"--optimizer {name}: there is no model of that name; name it after one of {', '.join(models)}.")
    found: dict[Path, Headers] = {}
    for name, source in models.items():
        state = Path(states[name]).expanduser() if name in states else None
        header = fisher_from_optimizer(
            source, output / name, optimizer=state, utterances_per_step=utterances_per_step, gradient_norm=gradient_norm
        )
        found[output / name] = {"fisher": header}
    return found


def compare_with_direct(source: str, output: Path, name: str) -> str:
    """In words, Spearman's rank correlation of the optimiser's Fisher with the one that was computed on audio."""
    from asrmerge.statistics.comparing import rank_correlation

    checkpoint = open_model(source)
    units = plan_units({one: checkpoint.dtype(one) for one in checkpoint.names}, checkpoint.model_type)
    places = plan_places(unit_shapes(units, {one: checkpoint.shape(one) for one in checkpoint.names}), checkpoint.model_type)
    own, direct = (SafetensorsReader(statistics_file(folder / name, "fisher")) for folder in (output, output / DIRECT))
    found = rank_correlation(own, direct, {one: place.group for one, place in places.items()})
    groups = ", ".join(f"{group} {value:.2f}" for group, value in found.groups.items())
    return f"rank correlation with the Fisher on audio {found.overall:.2f} over {found.entries} entries; {groups}"
