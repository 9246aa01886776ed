"""Whether two estimates of Fisher information put the same parameters first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import IncompatibleError

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of two diagonals.

    Attributes:
        overall: over all entries that both know; NaN where one is the same everywhere.
        groups: over those of each structural group.
        entries: how many were compared, for the one and for each of the other.
        left_out: parameters that only one of the two has, or that one has nothing but zeros for.
    """

    overall: float
    groups: dict[str, float]
    entries: int
    left_out: tuple[str, ...]


def rank_correlation(
    one: SafetensorsReader, other: SafetensorsReader, groups: Mapping[str, str], *, most: int = 1_000_000, seed: int = 0
) -> RankCorrelation:
    """Compare two diagonals by the ranks of their entries, a seeded sample where there are many.

    Args:
        groups: parameter → structural group, as of :func:`asrmerge.merging.structure.plan_places`.
        most: entries of the sample, overall and of each group.

    Raises:
        IncompatibleError: a parameter has another shape in the other file, or they have none in common.
    """
    shapes = {name: one.shape(name) for name in sorted({*one.names()} & {*other.names()})}
    for name, shape in shapes.items():
        if shape != other.shape(name):
            raise IncompatibleError(
                f"{name} has shape {list(shape)} in {one.path} and {list(other.shape(name))} in {other.path}: compare diagonals "
                "of one architecture."
            )
    known = {name for name in shapes if bool(one.read(name).any()) and bool(other.read(name).any())}
    if not known:
        raise IncompatibleError(
            f"{one.path} and {other.path} have no parameter in common: compare diagonals of one architecture."
        )
    places: dict[str, list[str]] = {}
    for name in sorted(known):
        places.setdefault(groups.get(name, "other"), []).append(name)
    sizes = {name: math.prod(shapes[name]) for name in known}
    found = {group: _correlation(*_sample(one, other, sizes, names, most, seed)) for group, names in sorted(places.items())}
    left_out = tuple(sorted(({*one.names()} | {*other.names()}) - known))
    sample = _sample(one, other, sizes, sorted(known), most, seed)
    return RankCorrelation(_correlation(*sample), found, len(sample[0]), left_out)


def _sample(
    one: SafetensorsReader, other: SafetensorsReader, sizes: Mapping[str, int], names: list[str], most: int, seed: int
) -> tuple[Values, Values]:
    """The same entries of both, at most so many, drawn without replacement from all of the parameters together."""
    total = sum(sizes[name] for name in names)
    drawn = np.arange(total) if total <= most else np.random.default_rng(seed).choice(total, most, replace=False, shuffle=False)
    drawn = np.sort(drawn)
    pairs = list(_entries(one, other, sizes, names, drawn))
    return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def _entries(
    one: SafetensorsReader, other: SafetensorsReader, sizes: Mapping[str, int], names: list[str], drawn: npt.NDArray[np.int64]
) -> Iterator[tuple[Values, Values]]:
    start = 0
    for name in names:
        first, last = np.searchsorted(drawn, [start, start + sizes[name]])
        chosen = torch.from_numpy(drawn[first:last] - start)
        yield tuple(file.read(name).flatten()[chosen].float().numpy() for file in (one, other))  # type: ignore[misc]
        start += sizes[name]


def _correlation(one: Values, other: Values) -> float:
    if len(one) < 2 or one.min() == one.max() or other.min() == other.max():
        return math.nan
    return float(spearmanr(one, other).statistic)
