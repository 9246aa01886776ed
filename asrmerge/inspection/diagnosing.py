"""The diagnosis of a merged model: its activations on every domain's audio, its weights, beside its experts'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible
from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.checkpoints.vocabulary_alignment import aligned
from asrmerge.inspection.activations import compare_activations, read_activations
from asrmerge.inspection.collapse import collapse_sentence
from asrmerge.inspection.diagnosis import Diagnosis
from asrmerge.inspection.norms import measure_norms
from asrmerge.merging.artefact import read_header
from asrmerge.merging.references import open_model
from asrmerge.merging.statistics import statistics_file


@dataclass(frozen=True)
class Compared:
    """A merged model, its experts by name, and their base, opened; heads of CTC models have the rows of one vocabulary."""

    merged: Checkpoint
    experts: Mapping[str, Checkpoint]
    base: Checkpoint | None


def open_compared(merged: str, experts: Mapping[str, str], base: str | None) -> Compared:
    """Open models as recipes name them.

    Raises:
        CheckpointError: a model is missing or corrupt.
        IncompatibleError: they are of different architectures.
    """
    names = [*(["base"] if base is not None else []), *experts, "merged"]
    opened = [open_model(source) for source in (*([base] if base is not None else []), *experts.values(), merged)]
    views = aligned(opened, names, has_base=base is not None)
    check_compatible(views, names)
    first = views[0] if base is not None else None
    return Compared(views[-1], dict(zip(experts, views[-1 - len(experts) : -1], strict=True)), first)


def diagnose(
    compared: Compared,
    merged_activations: Mapping[str, Path],
    expert_activations: Mapping[str, Path],
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:
    """Compare a merged model with its experts.

    Args:
        merged_activations: domain → folder with ``activations.safetensors`` of the merged model there.
        expert_activations: the same domains, of each one's own expert.
        on_tensor: is told the parameters done and their number.

    Raises:
        CheckpointError: a file is missing or corrupt, or a tensor holds NaN or Inf.
        StatisticsError: a figure of the activations is NaN or Inf.
    """
    layers = compare_activations(
        {domain: read_activations(folder) for domain, folder in merged_activations.items()},
        {domain: read_activations(expert_activations[domain]) for domain in merged_activations},
        compared.merged.model_type,
    )
    norms = measure_norms(compared.merged, compared.experts, compared.base, on_tensor)
    layers = tuple(
        layer.model_copy(update={"norm_ratio": found.norm_ratio, "task_vector_ratio": found.task_vector_ratio})
        if (found := norms.layers.get(layer.layer)) is not None
        else layer
        for layer in layers
    )
    return Diagnosis(
        merged=compared.merged.label,
        base=None if compared.base is None else compared.base.label,
        experts={name: checkpoint.label for name, checkpoint in compared.experts.items()},
        utterances={domain: _utterances(folder) for domain, folder in merged_activations.items()},
        layers=layers,
        groups=norms.groups,
        overall=norms.overall,
        sentence=collapse_sentence(layers),
    )


def _utterances(folder: Path) -> int:
    header = read_header(SafetensorsReader(statistics_file(folder, "activations")))
    return header.utterances if header is not None else 0
