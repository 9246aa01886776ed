"""Blocks with statistics to try the curvature methods on; for the tests beside this file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from asrmerge.merging import Block, get_method

FISHER, UGM, REGMEAN, MATS = (get_method(name) for name in ("fisher", "ugm", "regmean", "mats"))
ALL = [FISHER, UGM, REGMEAN, MATS]
AVERAGING = [FISHER, REGMEAN, MATS]  # whose weights are divided by their sum
quick = settings(max_examples=30, deadline=None)


@dataclass(frozen=True, eq=False)
class Case:
    """Float32 arrays. Entries have ``fishers``, linear maps ``grams`` and ``factors`` too."""

    base: np.ndarray
    experts: list[np.ndarray]
    weights: list[float]
    fishers: list[np.ndarray]
    grams: list[np.ndarray] | None = None
    factors: list[np.ndarray] | None = None

    @property
    def models(self):
        """Base and experts, beside which results are rounded."""
        return np.stack([self.base, *self.experts])

    def pick(self, order):
        """The same with these experts, in this order, each with what belongs to it."""
        chosen = lambda values: None if values is None else [values[index] for index in order]  # noqa: E731
        return Case(self.base, *map(chosen, (self.experts, self.weights, self.fishers, self.grams, self.factors)))


def block(case, held=False, weights=None, with_base=True, **changes):
    """``held``: with task vectors, as a search has them."""
    base, experts = torch.tensor(case.base), [torch.tensor(expert) for expert in case.experts]
    made = {
        name: None if values is None else [torch.tensor(value) for value in values]
        for name, values in (("fishers", case.fishers), ("grams", case.grams), ("factors", case.factors))
    }
    deltas = [expert - base for expert in experts] if held else None
    weights = case.weights if weights is None else weights
    return Block("x", base if with_base else None, experts, weights, deltas, **(made | changes))


def run(method, made, **parameters):
    statistics = [*(made.fishers or ()), *(made.grams or ()), *(made.factors or ())]
    inputs = [*made.experts, *statistics, *(one for one in (made.base, made.base_fisher) if one is not None)]
    copies = [tensor.clone() for tensor in inputs]
    merged = method.merge(made, method.parameters(**parameters))
    assert all(torch.equal(before, after) for before, after in zip(copies, inputs, strict=True))  # never written to
    assert merged.dtype == torch.float32
    assert merged.shape == made.shape
    assert all(merged.data_ptr() != tensor.data_ptr() or merged.numel() == 0 for tensor in inputs)
    assert bool(torch.isfinite(merged).all())
    return merged.numpy()


def _models(draw, shape, count):
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([1e-3, 0.1, 1.0]))
    base = np.asarray(random.normal(size=shape), dtype=np.float32)
    experts = [np.asarray(base + spread * random.normal(size=shape), dtype=np.float32) for _ in range(count)]
    weights = draw(st.lists(st.floats(0.1, 2), min_size=count, max_size=count))
    fishers = [np.asarray(random.gamma(0.3, 1e-2, size=shape) + 1e-7, dtype=np.float32) for _ in range(count)]
    return random, base, experts, weights, fishers


@st.composite
def entries(draw, count=None):
    """Tensors of any shape, with Fisher information of several orders of magnitude."""
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=4))
    _, base, experts, weights, fishers = _models(draw, shape, count or draw(st.integers(1, 4)))
    return Case(base, experts, weights, fishers)


@st.composite
def linear_maps(draw, count=None, bias=True, frames=30):
    """[W | b] with the means of xxᵀ over inputs that end with 1, and of ggᵀ; with few ``frames`` they are singular."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    random, base, experts, weights, fishers = _models(draw, (rows, columns), count or draw(st.integers(1, 4)))
    inputs = [random.normal(size=(frames, columns)) * random.uniform(0.2, 2, size=columns) for _ in experts]
    if bias:
        inputs = [np.concatenate([one[:, 1:], np.ones((frames, 1))], axis=1) for one in inputs]
    gradients = [0.1 * random.normal(size=(frames, rows)) @ random.normal(size=(rows, rows)) for _ in experts]
    grams, factors = ([np.float32(one.T @ one / frames) for one in side] for side in (inputs, gradients))
    return Case(base, experts, weights, fishers, grams, factors)
