"""Blocks to try the sphere methods on, and how to run one; for the tests beside this file."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from asrmerge.merging import Block, get_method

SLERP, NUSLERP = get_method("slerp"), get_method("nuslerp")
KARCHER, FISHER_KARCHER = get_method("karcher"), get_method("fisher_karcher")
ALL = [SLERP, NUSLERP, KARCHER, FISHER_KARCHER]
EXACT = {"tolerance": 1e-12, "maximum_iterations": 1000}
quick = settings(max_examples=30, deadline=None)


@st.composite
def cases(draw, count=None):
    """Base, experts, weights. Normal numbers; the task vectors have a direction in common."""
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=4))
    count = count or draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([1e-3, 0.1, 0.5]))
    base = random.normal(size=shape).astype(np.float32)
    common = random.normal(size=shape)
    deltas = [spread * (common + 0.7 * random.normal(size=shape)) for _ in range(count)]
    experts = [np.asarray(base + delta, dtype=np.float32) for delta in deltas]
    return np.asarray(base, dtype=np.float32), experts, draw(st.lists(st.floats(0.1, 2), min_size=count, max_size=count))


def block(base, experts, weights, held=False, fishers=None):
    base = None if base is None else torch.tensor(base)
    experts = [torch.tensor(expert) for expert in experts]
    fishers = [torch.ones_like(expert) for expert in experts] if fishers is None else [torch.tensor(each) for each in fishers]
    deltas = [expert - base for expert in experts] if held else None
    return Block("x", base, experts, weights, deltas, fishers=fishers)


def run(method, made, **parameters):
    inputs = [*made.experts, *made.fishers] + ([] if made.base is None else [made.base])
    copies = [tensor.clone() for tensor in inputs]
    merged = method.merge(made, method.parameters(**parameters))
    assert all(torch.equal(before, after) for before, after in zip(copies, inputs, strict=True))  # never written to
    assert merged.dtype == torch.float32
    assert merged.shape == made.shape
    assert bool(torch.isfinite(merged).all())
    return merged.numpy()


def close(one, two, tolerance=1e-5, beside=0.0):
    """To the tolerance times the norm of the right value, or of what it is rounded beside, as the base that is added."""
    size = max(1e-30, *(np.sqrt((np.asarray(value, dtype=np.float64) ** 2).sum()) for value in (two, beside)))
    np.testing.assert_allclose(one, two, rtol=0, atol=tolerance * size)
