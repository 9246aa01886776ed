"""Exact thresholds over blocks and whole models, and what is kept at them."""

from __future__ import annotations

import numpy as np
import pytest
import sparsified
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.merging import Block, get_method
from asrmerge.merging.methods import _row_chunks
from asrmerge.merging.methods._outliers import BandParameters, band_ranks
from asrmerge.merging.methods._trimming import find_magnitudes, trim, trim_band

TIES = get_method("ties")
quick = settings(max_examples=40, deadline=None)
# Any finite float32, subnormal ones and duplicates included.
ANY = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45])
)


def held(name, *vectors):
    vectors = [torch.as_tensor(vector, dtype=torch.float32) for vector in vectors]
    base = torch.zeros_like(vectors[0])
    return Block(name, base, vectors, [1.0] * len(vectors), vectors, [f"expert{i}" for i in range(len(vectors))])


def model(sizes, seed=0, experts=2):
    generator = np.random.default_rng(seed)
    return [
        held(f"x{i}", *(generator.standard_normal(size).astype(np.float32) for _ in range(experts)))
        for i, size in enumerate(sizes)
    ]


@quick
@given(st.lists(st.lists(ANY, min_size=0, max_size=8), min_size=1, max_size=4), st.data())
def test_magnitudes_of_any_rank_are_exact(tensors, data):
    blocks = [held("x", torch.tensor(values), torch.tensor(values).flip(0) * 0.5) for values in tensors]
    for expert, factor in enumerate([1.0, 0.5]):
        every = sorted((float(np.abs(np.float32(x) * np.float32(factor))) for values in tensors for x in values), reverse=True)
        ranks = [data.draw(st.integers(1, len(every))) for _ in range(3)] if every else [1, 1, 1]
        found = find_magnitudes(lambda: iter(blocks), lambda n, ranks=ranks: ranks)[expert]
        assert found == ([every[rank - 1] for rank in ranks] if every else [0.0] * 3)


def seventh(generator, size):
    """The sample takes every seventh entry: here it sees nothing of the others."""
    values = generator.standard_normal(size).astype(np.float32)
    values[::7] *= 1e-6
    return values


@pytest.mark.parametrize(
    ("draw", "passes"),
    [
        (lambda generator, size: generator.standard_normal(size).astype(np.float32), 2),
        (lambda generator, size: generator.standard_normal(size).astype(np.float16).astype(np.float32), 2),
        (lambda generator, size: np.zeros(size, np.float32), 2),
        (lambda generator, size: np.exp(15 * generator.standard_normal(size)).astype(np.float32), 3),  # brackets are too wide
        (seventh, 4),
    ],
    ids=["normal", "float16", "zeros", "wide", "misleading"],
)
def test_magnitudes_by_a_sample_are_exact(draw, passes):
    generator = np.random.default_rng(0)
    vectors = [[draw(generator, size) for size in ((1 << 20) + 3, 100, 70_000)] for _ in range(2)]
    blocks = [held(str(index), *pair) for index, pair in enumerate(zip(*vectors, strict=True))]
    made = []

    def run():
        made.append(1)
        return iter(blocks)

    found = find_magnitudes(run, lambda n: [n // 5, n // 2])
    for own, magnitudes in zip(vectors, found, strict=True):
        ordered = np.sort(np.abs(np.concatenate(own)))[::-1]
        assert magnitudes == [float(ordered[len(ordered) // part - 1]) for part in (5, 2)]
    assert len(made) == passes


def test_magnitudes_close_together_are_told_apart():
    """One unit in the last place apart, all in the same bin of the upper bits."""
    values = (np.full(1000, 1.0, np.float32).view(np.int32) + np.random.default_rng(0).permutation(1000).astype(np.int32)).view(
        np.float32
    )
    (found,) = find_magnitudes(lambda: iter([held("x", values)]), lambda n: [1, 2, 500, n])
    assert found == [float(np.sort(values)[-rank]) for rank in (1, 2, 500, 1000)]


@quick
@given(st.lists(ANY, min_size=1, max_size=20), st.data())
def test_trim_keeps_exactly_what_is_not_below(values, data):
    tensor, array = torch.tensor(values), np.array(values, np.float32)
    low, high = sorted(abs(float(data.draw(st.sampled_from(list(array))))) for _ in range(2))
    np.testing.assert_array_equal(trim(tensor, low).numpy(), np.where(np.abs(array) >= low, array, 0))
    kept = np.where((np.abs(array) >= low) & (np.abs(array) <= high), array, 0)
    np.testing.assert_array_equal(trim_band(tensor, low, high).numpy(), kept)
    assert trim(tensor, 0.0).data_ptr() != tensor.data_ptr()
    np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.997, 1.0])
def test_model_scope_ranks_over_the_whole_model(density):
    blocks = model([(7, 5), (11,), (), (3, 1, 4), (0,), (1,)])
    parameters = TIES.parameters(density=density)
    prepared = TIES.prepare(lambda: iter(blocks), parameters)
    bounds = [sparsified.threshold([block.deltas[t].numpy() for block in blocks], density) for t in range(2)]
    assert prepared == (None if density == 1 else bounds)
    for block in blocks:
        vectors = [sparsified.keep_largest(block.deltas[t].double().numpy(), bounds[t]) for t in range(2)]
        ready = Block(block.name, block.base, block.experts, block.weights, block.deltas, block.expert_names, prepared=prepared)
        np.testing.assert_allclose(TIES.merge(ready, parameters).numpy(), sparsified.elect(vectors, [1.0, 1.0]), rtol=1e-6)


def test_model_scope_differs_from_tensor_scope():
    small, large = held("a", [0.1, 0.2]), held("b", [10.0, 20.0])
    parameters = TIES.parameters(density=0.5)
    prepared = TIES.prepare(lambda: iter([small, large]), parameters)
    assert prepared == [10.0]
    ready = Block("a", small.base, small.experts, small.weights, prepared=prepared)
    assert TIES.merge(ready, parameters).tolist() == [0.0, 0.0]
    in_tensor = pytest.approx([0.0, 0.2])
    assert TIES.merge(ready, TIES.parameters(density=0.5, scope="tensor")).tolist() == in_tensor
    assert TIES.merge(small, parameters).tolist() == in_tensor  # not prepared: the block is the whole model


def test_prepare_reads_twice_and_only_if_asked():
    passes = []

    def blocks():
        passes.append(1)
        return iter(model([(3, 4), (5,)]))

    assert TIES.prepare(blocks, TIES.parameters(scope="tensor")) is None
    assert TIES.prepare(blocks, TIES.parameters(density=1.0)) is None
    assert not passes
    assert len(TIES.prepare(blocks, TIES.parameters())) == 2
    assert len(passes) == 2


def test_prepare_of_nothing():
    assert TIES.prepare(lambda: iter([]), TIES.parameters()) == []
    assert TIES.prepare(lambda: iter([held("x", np.zeros((0, 3)))]), TIES.parameters()) == [0.0]


def test_entries_equal_to_the_threshold_are_all_kept():
    halves = np.float16([0.1, 0.1, 0.1, 0.05, 0.05, 0.0]).astype(np.float32)
    merged = TIES.merge(held("x", halves), TIES.parameters(density=1 / 6))
    np.testing.assert_array_equal(merged.numpy(), np.where(halves >= halves[0], halves, 0))


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_density_one_keeps_everything_and_a_small_one_the_largest(count):
    values = np.arange(1, count + 1, dtype=np.float32)
    assert TIES.merge(held("x", values), TIES.parameters(density=1.0)).tolist() == values.tolist()
    assert TIES.merge(held("x", values), TIES.parameters(density=1e-9)).nonzero().tolist() == [[count - 1]]
    assert int(TIES.merge(held("x", values), TIES.parameters(density=0.5)).count_nonzero()) == max(1, round(count / 2))


def test_chunks_make_no_difference(monkeypatch):
    blocks = model([(9, 7), (5, 3, 2), (40,), ()], experts=3)
    cases = [("ties", {"density": 0.3}), ("breadcrumbs", {"density": 0.3, "gamma": 0.1}), ("breadcrumbs_ties", {})]

    def merge():
        merged = []
        for name, parameters in cases:
            method = get_method(name)
            merged += [method.merge(block, method.parameters(**parameters)) for block in blocks]
        return [*merged, TIES.prepare(lambda: iter(blocks), TIES.parameters())]

    whole = merge()
    monkeypatch.setattr(_row_chunks, "CHUNK_ENTRIES", 4)
    for one, two in zip(whole, merge(), strict=True):
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def test_the_majority_is_that_of_the_whole_tensor_not_of_a_chunk(monkeypatch):
    one = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]])
    two = torch.cat([-one[:, :1], one[:, 1:]], dim=1)  # the first column's sums are 0; the rest elects + 4 times, − 6 times
    monkeypatch.setattr(_row_chunks, "CHUNK_ENTRIES", 3)
    merged = TIES.merge(held("x", one, two), TIES.parameters(density=1.0))
    assert merged[:, 0].tolist() == [-1.0] * 5


@pytest.mark.parametrize(
    ("entries", "density", "gamma", "ranks"),
    [
        (100, 0.5, 0.01, (2, 51)),
        (10, 0.5, 0.01, (1, 5)),  # γ·n rounds to 0: no outlier is dropped, and not everything either
        (10, 0.9, 0.3, (2, 10)),  # density is kept, fewer outliers are dropped
        (10, 1.0, 0.5, (1, 10)),
        (3, 0.01, 0.01, (1, 1)),
        (1, 0.01, 0.99, (1, 1)),
    ],
)
def test_ranks_of_the_band(entries, density, gamma, ranks):
    assert band_ranks(BandParameters(density=density, gamma=gamma), entries) == ranks


def test_breadcrumbs_drops_outliers_and_small_entries():
    method = get_method("breadcrumbs")
    values = [float(x) for x in range(1, 11)]
    merged = method.merge(held("x", values), method.parameters(density=0.4, gamma=0.2))
    assert merged.tolist() == [0, 0, 0, 0, 5, 6, 7, 8, 0, 0]
