"""TSV-M, BoostedTSV-M, Iso-C and Iso-CTS: against float64 NumPy, and their invariants. No peer installed here has them."""

from __future__ import annotations

import numpy as np
import pytest
import spectral
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from asrmerge.errors import ConfigError
from asrmerge.merging import Block, get_method
from asrmerge.merging.methods._spectral import polar_factor
from asrmerge.merging.structure import Place

TSV_M, BOOSTED, ISO_C, ISO_CTS = (get_method(name) for name in ("tsv_m", "boosted_tsv_m", "iso_c", "iso_cts"))
METHODS = [TSV_M, BOOSTED, ISO_C, ISO_CTS]
LINEAR = Place("encoder.0", "linear")
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
COUNTS = st.integers(1, 5)
quick = settings(max_examples=25, deadline=None)


def cases(count=COUNTS):
    """Base and task vectors, float32, of random normal numbers, with a decaying spectrum."""

    def draw(shape, number, seed):
        random = np.random.default_rng(seed)
        decay = 0.7 ** np.arange(shape[1])
        tasks = [(random.normal(size=shape) * decay).astype(np.float32) for _ in range(number)]
        return random.normal(size=shape).astype(np.float32), tasks

    return st.builds(draw, SHAPES, count, st.integers(0, 2**32 - 1))


def block(base, tasks, weights=None, place=LINEAR):
    """A block whose task vectors are held, as in a search, so that they are these to the last bit."""
    base, deltas = torch.as_tensor(base), [torch.as_tensor(task) for task in tasks]
    return Block("x", base, [base + delta for delta in deltas], weights or [1.0] * len(deltas), deltas, place=place)


def change(method, tasks, weights=None, **parameters):
    """The merged task vector, float64, for base zero."""
    base = np.zeros_like(tasks[0])
    return run(method, block(base, tasks, weights), **parameters).astype(np.float64)


def run(method, made, **parameters):
    copies = [made.base.clone(), *[expert.clone() for expert in made.experts]]
    merged = method.merge(made, method.parameters(**parameters))
    for before, after in zip(copies, [made.base, *made.experts], strict=True):
        assert torch.equal(before, after)  # inputs are never written to
    assert merged.dtype == torch.float32
    assert merged.shape == copies[0].shape
    assert merged.data_ptr() != made.base.data_ptr() or merged.numel() == 0
    assert torch.isfinite(merged).all()
    return merged.numpy()


def close(one, two, tolerance=1e-5):
    scale = max(np.linalg.norm(one), np.linalg.norm(two), 1e-6)
    assert np.linalg.norm(one - two) <= tolerance * scale


def rotation(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def low_rank(shape, rank, seed):
    random = np.random.default_rng(seed)
    return (random.normal(size=(shape[0], rank)) @ random.normal(size=(rank, shape[1]))).astype(np.float32)


@quick
@given(cases(), st.lists(st.floats(0.25, 2), min_size=5, max_size=5), st.sampled_from([1, -1]), st.floats(-2, 2))
def test_tsv_m_and_iso_c_are_the_reference(case, weights, sign, scale):
    base, tasks = case
    weights = [sign * weight for weight in weights[: len(tasks)]]
    matrices = [weight * task.astype(np.float64) for weight, task in zip(weights, tasks, strict=True)]
    for method, reference in ((TSV_M, spectral.tsv_m), (ISO_C, spectral.iso_c)):
        close(run(method, block(base, tasks, weights), scale=scale), base + scale * reference(matrices))


@quick
@given(cases(), st.sampled_from([0.0, 0.1, 0.3, 0.77, 1.0]), st.sampled_from(["values", "squares"]))
def test_boosted_tsv_m_is_the_reference(case, boost, energy):
    tasks = case[1]
    power = {"values": 1, "squares": 2}[energy]
    close(change(BOOSTED, tasks, boost=boost, energy=energy), spectral.boosted_tsv_m(tasks, boost, power))


@quick
@given(cases(), st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
def test_iso_cts_is_the_reference(case, common):
    tasks = case[1]
    close(change(ISO_CTS, tasks, common=common), spectral.iso_cts(tasks, common), 3e-5)


@quick
@given(cases())
@pytest.mark.parametrize("method", METHODS)
def test_experts_give_what_held_task_vectors_give(method, case):
    base, tasks = (np.round(case[0] * 64) / 64, [np.round(task * 64) / 64 for task in case[1]])  # so that θ₀ + τ is exact
    held = block(base, tasks)
    lazy = Block("x", held.base, held.experts, held.weights, None, place=LINEAR)
    np.testing.assert_array_equal(run(method, held), run(method, lazy))


@quick
@given(cases(st.just(4)), st.permutations(range(4)))
@pytest.mark.parametrize("method", METHODS)
def test_permuting_pairs_changes_nothing(method, case, order):
    tasks, weights = case[1], [0.5, 1.0, -1.5, 2.0]
    close(change(method, tasks, weights), change(method, [tasks[i] for i in order], [weights[i] for i in order]))


@quick
@given(cases(), st.lists(st.sampled_from([-2.0, -0.5, 0.25, 1.0, 3.0]), min_size=5, max_size=5), st.sampled_from([0.7, -1.0]))
@pytest.mark.parametrize("method", [TSV_M, BOOSTED])
def test_parts_add_up_by_weight(method, case, weights, scale):
    base, tasks = case
    weights = weights[: len(tasks)]
    made = block(base, tasks, weights)
    parts = method.parts(made, method.parameters(scale=scale))
    if parts is None:
        assert method is TSV_M and len(tasks) == 1  # the task vector itself
    else:
        merged = sum((weight * part.double() for weight, part in zip(weights, parts, strict=True)), torch.tensor(base).double())
        close(merged.numpy(), run(method, made, scale=scale))
    assert method.parts(block(base[0], [task[0] for task in tasks], place=Place("norms", "norm")), method.parameters()) is None


@quick
@given(cases(), st.integers(0, 99))
@pytest.mark.parametrize("method", METHODS)
def test_rotating_the_task_vectors_rotates_the_result(method, case, seed):
    tasks = case[1]
    left, right = rotation(len(tasks[0]), seed), rotation(tasks[0].shape[1], seed + 1)
    rotated = change(method, [(left @ task @ right).astype(np.float32) for task in tasks])
    close(rotated, left @ change(method, tasks) @ right, 2e-4)  # rounding the rotated ones to float32 moves weak directions


@quick
@given(cases(), st.booleans(), st.floats(-2, 2))
@pytest.mark.parametrize("method", METHODS)
def test_zero_coefficients_return_the_base(method, case, kernel, scale):
    base, tasks = case
    place = Place("frontend", "convolution") if kernel else LINEAR
    made = block(base, tasks, [0.0] * len(tasks), place)
    np.testing.assert_array_equal(run(method, made, scale=scale), base)
    np.testing.assert_array_equal(run(method, block(base, tasks, None, place), scale=0.0), base)


@quick
@given(cases(), st.data())
def test_one_expert_is_returned_by_tsv_m(case, data):
    base, tasks = case
    chosen = data.draw(st.integers(0, len(tasks) - 1))
    one_hot = [float(index == chosen) for index in range(len(tasks))]
    np.testing.assert_array_equal(run(TSV_M, block(base, tasks, one_hot)), base + tasks[chosen])
    expected = base + 0.5 * 3.0 * tasks[chosen].astype(np.float64)
    np.testing.assert_array_equal(run(TSV_M, block(base, [tasks[chosen]], [3.0]), scale=0.5), expected.astype(np.float32))
    close(run(BOOSTED, block(base, tasks, one_hot), boost=1.0), base + tasks[chosen], 2e-5)


@quick
@given(cases())
def test_boost_one_is_tsv_m_and_zero_is_flat(case):
    tasks = case[1]
    for energy in ("values", "squares"):
        close(change(BOOSTED, tasks, boost=1.0, energy=energy), change(TSV_M, tasks), 2e-5)
    values = np.linalg.svd(change(BOOSTED, tasks[:1], boost=0.0), compute_uv=False)
    np.testing.assert_allclose(values, np.linalg.norm(tasks[0], 2), rtol=1e-4)


def test_boost_raises_what_comes_after_the_cumulative_energy():
    task = np.diag(np.array([6, 2, 1, 1], dtype=np.float32))
    close(change(BOOSTED, [task], boost=0.61), np.diag([6, 2, 2, 2]))
    close(change(BOOSTED, [task], boost=0.59), np.diag([6, 6, 6, 6]))
    close(change(BOOSTED, [task], boost=0.61, energy="squares"), np.diag([6, 6, 6, 6]))


@quick
@given(st.integers(2, 4), st.integers(1, 2), st.integers(0, 99))
def test_orthogonal_tasks_of_low_rank_add_up_in_tsv_m(count, rank, seed):
    left, right = rotation(8, seed), rotation(10, seed + 1)
    parts = [slice(rank * index, rank * (index + 1)) for index in range(count)]
    tasks = [(left[:, part] @ np.diag([3.0, 1.0][:rank]) @ right[part]).astype(np.float32) for part in parts]
    close(change(TSV_M, tasks), sum(task.astype(np.float64) for task in tasks))


@quick
@given(cases(st.just(1)), st.integers(2, 4), st.floats(0.5, 2))
def test_identical_experts_are_cut_by_tsv_m(case, count, weight):
    task = case[1][0]
    u, s, v = spectral.triplets(task)
    keep = max(1, min(task.shape) // count)
    cut = (u[:, :keep] * s[:keep]) @ v[:, :keep].T
    merged = change(TSV_M, [task] * count, [weight, *[1.0] * (count - 1)])
    close(merged, (weight + count - 1) / count * cut, 2e-5)
    if len(s) > keep:
        assert np.linalg.norm(change(TSV_M, [task] * count) - task) > 1e-3 * np.linalg.norm(task) * s[keep] / s[0]


@quick
@given(cases())
def test_iso_c_is_flat_with_the_nuclear_norm_of_the_sum(case):
    tasks = case[1]
    merged, total = change(ISO_C, tasks), np.sum(tasks, axis=0, dtype=np.float64)
    values = np.linalg.svd(merged, compute_uv=False)
    np.testing.assert_allclose(values, values.mean(), rtol=1e-4)
    np.testing.assert_allclose(values.sum(), np.linalg.norm(total, "nuc"), rtol=1e-4)


def test_iso_c_by_hand():
    tasks = [np.diag([3.0, 0.0, 0.0]).astype(np.float32), np.diag([1.0, -2.0, 0.0]).astype(np.float32)]
    close(change(ISO_C, tasks), np.diag([3.0, -3.0, 0.0]))  # the null direction stays null, the mean is over the other two


@quick
@given(cases(), st.floats(0, 1))
def test_iso_cts_is_iso_c_for_one_task_or_all_in_common(case, common):
    tasks = case[1]
    close(change(ISO_CTS, tasks, common=1.0), change(ISO_C, tasks))
    close(change(ISO_CTS, tasks[:1], common=common), change(ISO_C, tasks[:1]), 1e-4)


@quick
@given(st.integers(0, 99))
def test_iso_cts_is_flat(seed):
    random = np.random.default_rng(seed)
    tasks = [random.normal(size=(10, 12)).astype(np.float32) for _ in range(3)]
    values = np.linalg.svd(change(ISO_CTS, tasks, common=0.5), compute_uv=False)
    np.testing.assert_allclose(values, values[0], rtol=1e-4)


def test_iso_cts_by_hand():
    """Two common directions; the tasks' own ones have orthogonal left vectors and one right vector."""
    common, one, two = np.diag([4.0, 3, 0, 0]), np.zeros((4, 4)), np.zeros((4, 4))
    one[2, 2] = two[3, 2] = 1
    merged = change(ISO_CTS, [(common + own).astype(np.float32) for own in (one, two)], common=0.5)
    close(merged, (8 + 6 + 1 + 1) / 4 * (np.diag([1.0, 1, 0, 0]) + (one + two) / np.sqrt(2)))


@quick
@given(st.integers(1, 4), st.integers(0, 99), st.permutations(range(3)))
@pytest.mark.parametrize("method", METHODS)
def test_low_rank_is_deterministic(method, rank, seed, order):
    """Task vectors of low rank, one of them zero and two equal: no NaN, no noise in null directions."""
    tasks = [low_rank((9, 7), rank, seed), np.zeros((9, 7), np.float32), low_rank((9, 7), 1, seed + 1)]
    merged = change(method, [*tasks, tasks[0]])
    close(merged, change(method, [*[tasks[i] for i in order], tasks[0]]), 1e-4)
    assert np.linalg.matrix_rank(merged, tol=1e-4 * np.linalg.norm(merged)) <= rank + 1


def test_iso_cts_takes_no_directions_from_rounding():
    """Tasks inside of the common subspace leave nothing of their own."""
    tasks = [low_rank((8, 9), 2, 0) * np.float32(factor) for factor in (1, 2)]
    close(change(ISO_CTS, tasks, common=0.5), change(ISO_C, tasks))  # four directions in common, two for each task


def test_polar_factor_leaves_null_directions_null():
    """Two columns that are equal but for rounding: their difference is noise and must not be stretched to length 1."""
    column = np.array([1.0, 2.0, -2.0]) / 3
    columns = np.stack([column, column + 1e-7 * np.array([0, 1, 1]), [4e-3, -1e-3, 1e-3]], axis=1)
    for matrix in (columns, columns.T):
        values = np.linalg.svd(polar_factor(torch.tensor(matrix)).numpy(), compute_uv=False)
        np.testing.assert_allclose(values, [1, 1, 0], atol=1e-5)
    assert polar_factor(torch.zeros(3, 0)).shape == (3, 0)


@quick
@given(SHAPES, st.integers(1, 12))
@pytest.mark.parametrize("method", METHODS)
def test_zero_task_vectors_return_the_base(method, shape, count):
    base = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(run(method, block(base, [np.zeros(shape, np.float32)] * count)), base)


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_matrix_is_not_decomposed(method, monkeypatch):
    monkeypatch.setattr(torch.linalg, "eigh", lambda _: pytest.fail("decomposed"))
    made = block(np.ones((5, 6), np.float32), [np.zeros((5, 6), np.float32)] * 3)
    np.testing.assert_array_equal(run(method, made), made.base)
    if method in (TSV_M, BOOSTED):
        assert not any(part.any() for part in method.parts(made, method.parameters()))


@pytest.mark.parametrize("method", [ISO_C, ISO_CTS, TSV_M])
def test_opposite_task_vectors_cancel(method):
    task = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    assert np.linalg.norm(change(method, [task, -task])) < 1e-5 * np.linalg.norm(task)


@pytest.mark.parametrize("method", METHODS)
def test_more_experts_than_directions(method):
    tasks = list(np.random.default_rng(0).normal(size=(8, 5, 6)).astype(np.float32))
    assert np.linalg.norm(change(method, tasks)) > 0.1
    close(change(TSV_M, tasks), spectral.tsv_m(tasks))
    close(change(ISO_CTS, tasks, common=0.0), change(ISO_C, tasks))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((), LINEAR),
        ((5,), Place("encoder.0", "bias")),
        ((5, 4), Place("embedding", "embedding")),
        ((5, 4), Place("head", "head")),
        ((4, 3, 2), Place("frontend", "convolution")),
    ],
)
def test_other_tensors_are_averaged(method, shape, place):
    random = np.random.default_rng(0)
    base, *tasks = (random.normal(size=shape).astype(np.float32) for _ in range(4))
    made = block(base, tasks, [1.0, 0.5, -2.0], place)
    close(run(method, made, scale=0.7), base + 0.7 * (tasks[0] + 0.5 * tasks[1] - 2.0 * tasks[2]) / 3)
    one = block(base, tasks, [0.0, 1.0, 0.0], place)
    close(run(method, one), base + tasks[1])


@pytest.mark.parametrize("method", METHODS)
def test_matrices_of_unknown_place_are_spectral_and_kernels_on_request(method):
    random = np.random.default_rng(0)
    base, *tasks = (random.normal(size=(4, 3, 2)).astype(np.float32) for _ in range(4))
    flat = run(method, block(base.reshape(4, 6), [task.reshape(4, 6) for task in tasks], place=Place()))
    assert np.linalg.norm(flat - (base + np.mean(tasks, axis=0)).reshape(4, 6)) > 0.1
    kernel = block(base, tasks, place=Place("frontend", "convolution"))
    np.testing.assert_array_equal(run(method, kernel, convolutions="flatten").reshape(4, 6), flat)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_empty_tensors(method, shape):
    assert run(method, block(np.zeros(shape, np.float32), [np.zeros(shape, np.float32)] * 2)).shape == shape


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-37, 1e30])
def test_extreme_magnitudes(method, size):
    tasks = list((np.random.default_rng(0).normal(size=(3, 4, 5))).astype(np.float32))
    close(change(method, [task * np.float32(size) for task in tasks]) / size, change(method, tasks))


@pytest.mark.parametrize("method", METHODS)
def test_bad_input(method):
    with pytest.raises(ConfigError, match=f"{method.name} needs a base: name it in the recipe"):
        method.merge(Block("x", None, [torch.ones(2, 2)], [1.0]), method.parameters())
    for wrong in ({"scale": 11}, {"convolutions": "drop"}, {"boost": 1.1}, {"common": -0.1}):
        with pytest.raises(ValidationError):
            method.parameters(**wrong)
