"""SLERP, NuSLERP and the Karcher means on blocks: against NumPy, and the invariants of the methods' page."""

from __future__ import annotations

import numpy as np
import pytest
import sphere
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from sphere_blocks import ALL, EXACT, FISHER_KARCHER, KARCHER, NUSLERP, SLERP, block, cases, close, quick, run

from asrmerge.merging import Block
from asrmerge.merging.methods import _sphere
from asrmerge.merging.methods.karcher import karcher_mean


def narrow(vectors):
    """Well inside of a half sphere, where the mean is unique and the iterations converge."""
    return all(sphere.length(v) > 0 for v in vectors) and all(sphere.angle(a, b) < 1.3 for a in vectors for b in vectors)


def rows(experts):
    return [np.stack(list(row)) for row in zip(*experts, strict=True)] if experts[0].ndim > 1 else [np.stack(experts)]


def pick(space, base, experts):
    """x₀ and the vectors of that space, in float64."""
    if space == "weights":
        return 0.0, [expert.astype(np.float64) for expert in experts]
    return base.astype(np.float64), [expert.astype(np.float64) - base for expert in experts]


# Against the references


@quick
@given(cases(count=2), st.booleans(), st.sampled_from(["weights", "task_vectors"]), st.sampled_from([0.5, 0.9, 0.9995, 1.0]))
def test_slerp_is_the_reference(case, held, space, threshold):
    base, experts, weights = case
    origin, vectors = pick(space, base, experts)
    cosine = np.cos(sphere.angle(*vectors))
    assume(abs(abs(cosine) - threshold) > 1e-5 and cosine > -0.999)  # rounding decides on which side it is
    expected = origin + sphere.slerp(*vectors, weights[1] / sum(weights), threshold)
    close(run(SLERP, block(base, experts, weights, held), space=space, threshold=threshold), expected, beside=base)


@quick
@given(cases(count=2), st.booleans(), st.sampled_from(["tensor", "row", "column"]), st.sampled_from(["weights", "task_vectors"]))
def test_nuslerp_is_the_reference(case, held, layout, space):
    base, experts, weights = case
    t = weights[1] / sum(weights)
    origin, vectors = pick(space, base, experts)
    if layout == "column" and base.ndim > 1:
        vectors = [np.moveaxis(vector, 0, -1).reshape(-1, base.shape[0]) for vector in vectors]
    assume(all(np.cos(sphere.angle(*pair)) > -0.999 for pair in (rows(vectors) if layout != "tensor" else [vectors])))
    merged = sphere.slerp(*vectors, t) if layout == "tensor" else sphere.by_row(lambda pair: sphere.slerp(*pair, t), vectors)
    if layout == "column" and base.ndim > 1:
        merged = np.moveaxis(merged.reshape(*base.shape[1:], base.shape[0]), -1, 0)
    close(run(NUSLERP, block(base, experts, weights, held), block=layout, space=space), origin + merged, beside=base)
    if space == "task_vectors":  # the default where there is a base
        close(run(NUSLERP, block(base, experts, weights, held), block=layout), origin + merged, beside=base)


@quick
@given(cases(), st.booleans(), st.sampled_from(["tensor", "row"]), st.sampled_from(["weights", "task_vectors"]))
def test_karcher_is_the_reference(case, held, layout, space):
    base, experts, weights = case
    origin, vectors = pick(space, base, experts)
    assume(all(narrow(row) for row in (rows(vectors) if layout == "row" else [vectors])))
    average = lambda arrays: sphere.karcher(arrays, weights)  # noqa: E731
    expected = average(vectors) if layout == "tensor" else sphere.by_row(average, vectors)
    close(run(KARCHER, block(base, experts, weights, held), block=layout, space=space, **EXACT), origin + expected, beside=base)
    close(run(KARCHER, block(base, experts, weights, held), block=layout, space=space), origin + expected, 1e-3, base)


@quick
@given(cases(), st.sampled_from([0.0, 1e-6, 0.5]), st.data())
def test_fisher_karcher_is_the_reference(case, floor, data):
    base, experts, weights = case
    elements = st.floats(0.0625, 4, width=32)
    fishers = [data.draw(st_numpy.arrays(np.float32, base.shape, elements=elements)) for _ in experts]
    assume(narrow([np.sqrt(np.mean(fishers, axis=0)) * expert for expert in experts]) and narrow(experts))
    expected = sphere.fisher_karcher([expert.astype(np.float64) for expert in experts], weights, fishers, floor)
    close(run(FISHER_KARCHER, block(base, experts, weights, fishers=fishers), floor=floor, **EXACT), expected)


@quick
@given(cases(), st.floats(1e-6, 1e6), st.sampled_from(["tensor", "row"]))
def test_fisher_karcher_with_equal_entries_is_karcher(case, value, layout):
    base, experts, weights = case
    assume(narrow(experts) and narrow([expert - base for expert in experts]))  # else the mean may not be the only one
    fishers = [np.full(base.shape, value, np.float32)] * len(experts)
    for space in ("weights", "task_vectors"):
        made = block(base, experts, weights, fishers=fishers)
        close(run(FISHER_KARCHER, made, block=layout, space=space), run(KARCHER, made, block=layout, space=space), 1e-6)


@quick
@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([1.0, 1e-2, 1e-4]))
def test_vectors_opposite_of_the_mean_do_not_pull(seed, count, closeness):
    # Rows of one number have the directions +1 and −1: the heavier side's, times the mean norm, however closely they cancel.
    random = np.random.default_rng(seed)
    experts = [random.normal(size=(50, 1)).astype(np.float32) for _ in range(count)]
    weights = random.uniform(0.5, 1, count)
    weights[0] = weights[1:].sum() * (1 + closeness)
    norms = np.average([np.abs(expert.astype(np.float64)) for expert in experts], axis=0, weights=weights)
    expected = np.sign(experts[0]) * norms
    np.testing.assert_allclose(run(KARCHER, block(None, experts, list(weights)), block="row"), expected, rtol=1e-5)


def test_fisher_floor_and_fisher_of_zeros():
    experts = [np.float32([1, 2, 0]), np.float32([2, 1, 5])]
    fishers = [np.float32([1, 0, 0]), np.float32([3, 0, 0])]
    merged = run(FISHER_KARCHER, block(None, experts, [1, 1], fishers=fishers), floor=1e-3, **EXACT)
    close(merged, sphere.fisher_karcher(experts, [1, 1], fishers, 1e-3))
    # The one entry with information has one direction: its norms are averaged.
    assert run(FISHER_KARCHER, block(None, experts, [1, 1], fishers=fishers), floor=0.0)[0] == pytest.approx(1.5)
    zeros = [np.zeros(3, np.float32)] * 2
    close(run(FISHER_KARCHER, block(None, experts, [1, 3], fishers=zeros)), np.float32([1.75, 1.25, 3.75]))


# Invariants


@quick
@given(st.data(), st.randoms())
@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_permuting_pairs_changes_nothing(method, data, random):
    count = 2 if method in (SLERP, NUSLERP) else data.draw(st.integers(2, 4))
    base, experts, weights = data.draw(cases(count=count))
    assume(narrow(experts) and narrow(pick("task_vectors", base, experts)[1]))
    order = list(range(count))
    random.shuffle(order)
    permuted = block(base, [experts[index] for index in order], [weights[index] for index in order])
    for space in ("weights", "task_vectors"):
        close(run(method, permuted, space=space), run(method, block(base, experts, weights), space=space), 1e-6)


@quick
@given(cases(count=2), st.sampled_from([0, 1]), st.booleans())
@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_one_hot_weight_returns_that_expert(method, case, chosen, held):
    base, experts, _ = case
    made = block(base, experts, [3.0 * (index == chosen) for index in range(2)], held)
    for space in ("weights", "task_vectors"):
        merged = run(method, made, space=space)
        if held:
            close(merged, experts[chosen], 2e-7, base)
        else:
            np.testing.assert_array_equal(merged, experts[chosen])


@quick
@given(cases(count=2), st.booleans())
@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_identical_experts_come_back(method, case, held):
    base, experts, weights = case
    for space in ("weights", "task_vectors"):
        close(run(method, block(base, experts[:1] * 2, weights, held), space=space), experts[0], 2e-7, base)


@quick
@given(cases(count=1), st.booleans())
@pytest.mark.parametrize("method", [KARCHER, FISHER_KARCHER], ids=lambda method: method.name)
def test_one_expert_comes_back(method, case, held):
    base, experts, weights = case
    for layout in ("tensor", "row"):
        close(run(method, block(base, experts, weights, held), block=layout, space="task_vectors"), experts[0], 2e-7, base)


@quick
@given(cases(count=2))
def test_karcher_of_two_is_directional_slerp_times_the_mean_norm(case):
    base, experts, weights = case
    assume(narrow(experts))
    t, norms = weights[1] / sum(weights), [np.linalg.norm(expert.astype(np.float64)) for expert in experts]
    units = [expert / norm for expert, norm in zip(experts, norms, strict=True)]
    expected = ((1 - t) * norms[0] + t * norms[1]) * sphere.slerp(*units, t)
    close(run(KARCHER, block(base, experts, weights), **EXACT), expected, 1e-6)


@quick
@given(cases(count=2), st.floats(0.1, 10))
@pytest.mark.parametrize("method", [SLERP, NUSLERP], ids=lambda method: method.name)
def test_the_arc_between_vectors_of_one_norm_keeps_it(method, case, norm):
    _, experts, weights = case
    assume(narrow(experts) and np.cos(sphere.angle(*(np.float64(expert) for expert in experts))) < 0.9995)
    same = [np.float32(norm / np.linalg.norm(np.float64(expert)) * expert) for expert in experts]
    merged = run(method, block(None, same, weights))
    assert np.linalg.norm(np.float64(merged)) == pytest.approx(norm, rel=1e-6)


@quick
@given(cases())
def test_norm_of_karcher_is_the_mean_norm(case):
    base, experts, weights = case
    mean = np.average([np.linalg.norm(expert.astype(np.float64)) for expert in experts], weights=weights)
    for steps in (1, 10):
        merged = run(KARCHER, block(base, experts, weights), maximum_iterations=steps)
        assert np.linalg.norm(merged.astype(np.float64)) == pytest.approx(mean, rel=1e-6)


@quick
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([1e-18, 1e-6, 1.0, 1e6, 1e15]))
def test_karcher_is_rotation_and_scale_equivariant(size, count, seed, scale):
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=(size, size)))
    experts = [random.normal(size=size) + 2 for _ in range(count)]
    weights = list(random.uniform(0.1, 1, size=count))
    assume(narrow(experts))
    plain = run(KARCHER, block(None, [expert.astype(np.float32) for expert in experts], weights), **EXACT)
    turned = [(scale * rotation @ expert).astype(np.float32) for expert in experts]
    close(run(KARCHER, block(None, turned, weights), **EXACT), scale * rotation @ plain, 2e-6)


@quick
@given(st.integers(50, 500), st.integers(0, 2**32), st.sampled_from([0.001, 0.01, 0.1]))
def test_close_fine_tunes_give_the_mean_to_the_second_order(size, seed, spread):
    random = np.random.default_rng(seed)
    base = random.normal(size=size)
    experts = [(base + spread * random.normal(size=size)).astype(np.float32) for _ in range(3)]
    mean = np.mean(np.float64(experts), axis=0)
    phi = max(sphere.angle(np.float64(one), np.float64(two)) for one in experts for two in experts)
    distance = np.linalg.norm(run(KARCHER, block(None, experts, [1, 1, 1])) - mean) / np.linalg.norm(mean)
    assert distance < phi**2 / 4 + 1e-7
    pair = np.mean(np.float64(experts[:2]), axis=0)
    phi = sphere.angle(np.float64(experts[0]), np.float64(experts[1]))
    difference = np.linalg.norm(run(KARCHER, block(None, experts[:2], [1, 1]))) / np.linalg.norm(pair) - 1
    assert difference < 1.3 * phi**2 / 8 + 2e-7  # the chord's middle is shorter by cos φ/2
    if spread == 0.1:
        assert difference > 0.7 * phi**2 / 8


# What the geometry rests on: angles from inner products


@pytest.mark.parametrize("angle", [1e-6, 1e-4, 1e-3, 1.0, 3.0])
def test_small_angles_are_exact(angle):
    """float32 arc cosines of dot products give 0 or are off by half at these."""
    size = 3000
    random = np.random.default_rng(0)
    one, two = np.linalg.qr(random.normal(size=(size, 2)))[0].T
    models = [torch.tensor(one), torch.tensor(np.cos(angle) * one + np.sin(angle) * two)]  # float64, as no float32 is that near
    gram = _sphere.read_vectors("x", Block("x", None, models, [1, 1]), "weights").gram()
    mean = karcher_mean(gram, [0.5, 0.5])
    assert float(mean.radius) == pytest.approx(angle / 2, rel=2e-3 if angle < 1e-5 else 1e-6)
    _, cosines = _sphere.direction_cosines(gram)
    assert float(_sphere.angle(cosines)[0, 0, 1]) == pytest.approx(angle, rel=2e-3 if angle < 1e-5 else 1e-6)


@pytest.mark.parametrize("spread", [3e-4, 1e-3])
def test_close_fine_tunes_against_extended_precision(spread):
    """Right in the scale of the task vectors, to what rounding the result to float32 costs."""
    random = np.random.default_rng(1)
    base = random.normal(size=5000)
    experts = [(base + spread * size * random.normal(size=5000)).astype(np.float32) for size in (1, 0.5, 1.5, 0.3)]
    exact = sphere.karcher(experts, [1, 2, 3, 1], dtype=np.longdouble).astype(np.float64)
    merged = run(KARCHER, block(None, experts, [1, 2, 3, 1]))
    rounding = np.linalg.norm(exact - exact.astype(np.float32))
    assert np.linalg.norm(merged - exact) < 1.5 * rounding
    assert np.linalg.norm(merged - exact) < 1e-4 * 1e-3 / spread * np.linalg.norm(exact - base)


def test_pieces_cover_each_layout(monkeypatch):
    monkeypatch.setattr(_sphere, "PIECE_ON_CPU", 8)
    monkeypatch.setattr(_sphere, "LEAST_RUN", 3)
    random = np.random.default_rng(2)
    for shape in ((5, 7), (1, 9), (9, 1), (3, 2, 5), (20,), ()):
        base, *experts = [random.normal(size=shape).astype(np.float32) + 1 for _ in range(4)]
        for layout in ("tensor", "row", "column"):
            vectors = _sphere.read_vectors("x", block(base, experts, [1, 1, 1]), "task_vectors", layout)
            flat = [
                (expert - base.astype(np.float64)).reshape(1, -1)
                if layout == "tensor" or len(shape) < 2
                else (expert - base.astype(np.float64)).reshape(shape[0], -1)
                for expert in experts
            ]
            stacked = np.stack([each.T if layout == "column" and len(shape) > 1 else each for each in flat])
            np.testing.assert_allclose(vectors.gram().numpy(), np.einsum("src,trc->rst", stacked, stacked), rtol=1e-12)
            factors = torch.rand(stacked.shape[1], 3, dtype=torch.float64)
            merged = np.einsum("trc,rt->rc", stacked, factors.numpy())
            merged = (merged.T if layout == "column" and len(shape) > 1 else merged).reshape(shape) + base
            np.testing.assert_allclose(vectors.combine(factors).numpy(), merged, rtol=1e-5, atol=1e-6)
