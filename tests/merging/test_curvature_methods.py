"""Fisher merging, UGM, RegMean and MaTS on blocks: against NumPy, and the invariants of the methods' page."""

from __future__ import annotations

from dataclasses import replace

import averages
import curvature
import numpy as np
import pytest
import torch
from curvature_blocks import ALL, AVERAGING, FISHER, MATS, REGMEAN, UGM, Case, block, entries, linear_maps, quick, run
from hypothesis import assume, given
from hypothesis import strategies as st
from sphere_blocks import close

EXACT = {"iterations": 1000, "tolerance": 1e-13}
cases = st.one_of(linear_maps(), linear_maps(bias=False), linear_maps(frames=2))


def by_name(method):
    return method.name


# Against the references


@quick
@given(entries(), st.booleans(), st.sampled_from([0.0, 1e-6, 1e-3]), st.sampled_from(["every", "target"]), st.booleans())
def test_fisher_is_the_reference(case, held, floor, floor_on, normalize):
    assume(sorted(case.weights)[-2:-1] != [max(case.weights)])  # of equals, the first by name is the target
    norms = [float(np.sqrt((np.float64(fisher) ** 2).sum())) for fisher in case.fishers] if normalize else None
    floors = [floor if floor_on == "every" or weight == max(case.weights) else 0.0 for weight in case.weights]
    expected = curvature.fisher(case.experts, case.weights, case.fishers, floors, norms)
    merged = run(FISHER, block(case, held), floor=floor, floor_on=floor_on, normalize=normalize)
    close(merged, expected, 1e-6, case.models)


@quick
@given(entries(), st.booleans(), st.sampled_from([0.0, 0.5, 7.0]), st.sampled_from([1e-6, 0.1]), st.booleans(), st.data())
def test_ugm_is_the_reference(case, held, base_scale, prior, counts, data):
    base_fisher = data.draw(st.sampled_from([None, *case.fishers]))
    utterances = data.draw(st.sampled_from([None, [3, 1, 200, 7][: len(case.experts)]]))
    own = prior + (base_scale * np.float64(base_fisher) if base_fisher is not None else np.zeros(case.base.shape))
    used = utterances if counts and utterances is not None else [1] * len(case.experts)
    expected = curvature.ugm(case.base, case.experts, case.weights, case.fishers, used, own, 0.7)
    known = None if base_fisher is None else torch.tensor(base_fisher)
    made = block(case, held, base_fisher=known, utterances=utterances)
    close(run(UGM, made, base_scale=base_scale, prior=prior, counts=counts, scale=0.7), expected, 1e-5, case.models)


@quick
@given(linear_maps(), st.booleans(), st.floats(0, 1), st.sampled_from([0.0, 1e-6, 0.1]))
def test_regmean_is_the_reference(case, held, alpha, jitter):
    expected = curvature.regmean(case.experts, case.weights, case.grams, alpha, jitter)
    close(run(REGMEAN, block(case, held), alpha=alpha, jitter=jitter), expected, 1e-5, case.models)
    scaled = run(REGMEAN, block(case, held), alpha=alpha, jitter=jitter, scale=0.4)
    close(scaled, case.base + 0.4 * (expected - case.base), 1e-5, case.models)


@quick
@given(linear_maps(frames=3), st.floats(0, 0.9), st.sampled_from([1e-6, 0.1]))
def test_regmean_of_few_inputs_is_the_reference(case, alpha, jitter):
    """What the reference adds to every Gram matrix, the method adds to their sum, and solves for the way from the mean."""
    expected = curvature.regmean(case.experts, case.weights, case.grams, alpha, jitter)
    close(run(REGMEAN, block(case), alpha=alpha, jitter=jitter), expected, 1e-5, case.models)


@quick
@given(linear_maps(), st.booleans(), st.sampled_from(["average", "task_arithmetic"]))
def test_mats_by_conjugate_gradients_is_the_dense_solution(case, held, start):
    """From any start."""
    expected = curvature.mats(case.experts, case.weights, case.grams, case.factors)
    merged = run(MATS, block(case, held), start=start, start_scale=0.5, **EXACT)
    close(merged, expected, 1e-4, case.models)
    defaults = run(MATS, block(case, held))
    residual = [
        weight * np.float64(factor) @ (np.float64(expert) - defaults) @ np.float64(gram)
        for expert, factor, gram, weight in zip(case.experts, case.factors, case.grams, case.weights, strict=True)
    ]
    assert np.abs(sum(residual)).max() < 1e-4 * sum(np.abs(each).max() for each in residual) + 1e-6


# Special cases that are other methods


@quick
@given(cases, st.booleans(), st.floats(1e-4, 1e4))
def test_equal_statistics_give_the_weighted_mean(case, held, factor):
    expected = averages.linear(case.experts, case.weights)
    count = len(case.experts)
    scaled = lambda values: [np.float32(factor) * values[0]] * count  # noqa: E731
    same = replace(case, fishers=scaled(case.fishers), grams=scaled(case.grams), factors=scaled(case.factors))
    for method in AVERAGING:
        close(run(method, block(same, held)), expected, 1e-6, case.models)
    for alpha in (0.0, 1.0):
        close(run(REGMEAN, block(same, held), alpha=alpha), expected, 1e-6, case.models)


@quick
@given(linear_maps(), st.booleans())
def test_mats_with_equal_gradients_is_regmean(case, held):
    for factor in (np.eye(len(case.base), dtype=np.float32), np.float32(3) * case.factors[0]):
        same = replace(case, factors=[factor] * len(case.experts))
        expected = run(REGMEAN, block(case, held), alpha=1.0, jitter=0.0)
        close(run(MATS, block(same, held), **EXACT), expected, 1e-4, case.models)


@quick
@given(linear_maps(count=3), st.sampled_from([1e-3, 0.1, 1.0]))
def test_a_ridge_pulls_mats_to_its_start(case, ridge):
    """With B = I it is RegMean's jitter."""
    same = replace(case, factors=[np.eye(len(case.base), dtype=np.float32)] * 3)
    expected = run(REGMEAN, block(same), alpha=1.0, jitter=ridge)
    close(run(MATS, block(same), ridge=ridge, **EXACT), expected, 1e-5, case.models)


@quick
@given(entries(), st.booleans())
def test_ugm_is_task_arithmetic_and_fisher_merging_at_its_ends(case, held):
    flat = replace(case, fishers=[np.zeros_like(fisher) for fisher in case.fishers])
    sums = averages.task_arithmetic(case.base, case.experts, case.weights, 0.6)
    close(run(UGM, block(flat, held), prior=2.0, scale=0.6), sums, 1e-5, case.models)
    close(run(UGM, block(case, held), prior=1e9, scale=0.6), sums, 1e-5, case.models)
    count = len(case.experts)
    ones = curvature.fisher(case.experts, case.weights, case.fishers)
    close(run(UGM, block(case, held), prior=0.0), ones, 1e-5, case.models)
    counted = block(case, held, utterances=[5, 2, 9, 1][:count])
    more = [number * fisher for number, fisher in zip([5, 2, 9, 1], case.fishers, strict=False)]
    close(run(UGM, counted, prior=0.0), curvature.fisher(case.experts, case.weights, more), 1e-5, case.models)


@quick
@given(linear_maps(count=2))
def test_without_statistics_a_block_gets_the_weighted_mean(case):
    """A norm, an embedding, a grouped convolution: whatever its shape and MaTS' start."""
    for shape in (case.base.shape, (-1,)):
        bare = Case(case.base.reshape(shape), [expert.reshape(shape) for expert in case.experts], case.weights, [])
        expected = averages.linear(bare.experts, bare.weights)
        for held in (False, True):
            close(run(REGMEAN, block(bare, held)), expected, 1e-6, bare.models)
            close(run(MATS, block(bare, held), start="task_arithmetic"), expected, 1e-6, bare.models)
    only_grams = block(replace(case, factors=None))
    close(run(MATS, only_grams), averages.linear(case.experts, case.weights), 1e-6, case.models)


# Invariants


@quick
@given(cases, st.randoms())
@pytest.mark.parametrize("method", ALL, ids=by_name)
def test_permuting_pairs_changes_nothing(method, case, random):
    order = list(range(len(case.experts)))
    random.shuffle(order)
    parameters = {"iterations": 3} if method is MATS else {}
    one, other = (run(method, block(each), **parameters) for each in (case, case.pick(order)))
    close(one, other, 1e-5, case.models)


@quick
@given(cases, st.integers(0, 3), st.booleans())
@pytest.mark.parametrize("method", ALL, ids=by_name)
def test_one_hot_weight_returns_that_expert(method, case, chosen, held):
    chosen = chosen % len(case.experts)
    # UGM's weights multiply: there it is the weight 1.
    weights = [(1.0 if method is UGM else 3.0) * (index == chosen) for index in range(len(case.experts))]
    merged = run(method, block(case, held, weights))
    if held or method is UGM:
        close(merged, case.experts[chosen], 2e-7, case.models)
    else:
        np.testing.assert_array_equal(merged, case.experts[chosen])


@quick
@given(cases, st.booleans())
@pytest.mark.parametrize("method", AVERAGING, ids=by_name)
def test_identical_experts_come_back(method, case, held):
    same = replace(case, experts=[case.experts[0]] * len(case.experts))
    close(run(method, block(same, held)), case.experts[0], 3e-7, case.models)
    if method is REGMEAN:
        close(run(method, block(same, held), alpha=1.0), case.experts[0], 3e-7, case.models)


@quick
@given(entries(), st.booleans())
def test_identical_experts_come_back_from_ugm_if_weights_sum_to_one_or_the_base_is_unsure(case, held):
    same = replace(case, experts=[case.experts[0]] * len(case.experts))
    shares = [weight / sum(case.weights) for weight in case.weights]
    close(run(UGM, block(same, held, shares), prior=0.5), case.experts[0], 1e-6, case.models)
    close(run(UGM, block(same, held), prior=0.0), case.experts[0], 1e-6, case.models)
    size = np.abs(case.experts[0] - case.base).max(initial=0)
    assume(abs(sum(case.weights) - 1) > 0.1 and size > 1e-3)
    moved = run(UGM, block(same, held), prior=0.5) - case.experts[0]
    assert np.abs(moved).max() > 0.02 * size


@quick
@given(cases, st.booleans())
def test_nothing_added_returns_the_base(case, held):
    zeros = [0.0] * len(case.experts)
    for prior in (0.0, 1e-3):
        np.testing.assert_array_equal(run(UGM, block(case, held, zeros), prior=prior), case.base)
        np.testing.assert_array_equal(run(UGM, block(case, held), prior=prior, scale=0.0), case.base)
    for method in AVERAGING:
        close(run(method, block(case, held), scale=0.0), case.base, 1e-7)


@quick
@given(entries(), st.booleans(), st.booleans())
def test_fisher_stays_between_the_experts(case, held, normalize):
    merged = run(FISHER, block(case, held), normalize=normalize)
    _between(merged, case)


@quick
@given(linear_maps(frames=2), st.booleans())
def test_regmean_of_diagonals_stays_between_the_experts(case, held):
    _between(run(REGMEAN, block(case, held), alpha=0.0), case)


def _between(merged, case):
    rounding = 1e-6 * max(1, *(np.abs(expert).max(initial=0) for expert in case.experts))
    assert (merged >= np.min(case.experts, axis=0) - rounding).all()
    assert (merged <= np.max(case.experts, axis=0) + rounding).all()


@quick
@given(cases, st.booleans(), st.floats(-2, 2))
@pytest.mark.parametrize("method", AVERAGING, ids=by_name)
def test_the_scale_moves_along_the_line_from_the_base(method, case, held, scale):
    merged = run(method, block(case, held))
    spread = max(np.abs(value).max(initial=0) for value in (merged, case.base))
    moved = run(method, block(case, held), scale=scale)
    np.testing.assert_allclose(moved, case.base + scale * (np.float64(merged) - case.base), rtol=0, atol=1e-6 * max(spread, 1))


@quick
@given(cases, st.floats(0.01, 100))
@pytest.mark.parametrize("method", AVERAGING, ids=by_name)
def test_only_ratios_of_weights_count(method, case, factor):
    more = [factor * weight for weight in case.weights]
    close(run(method, block(case, weights=more)), run(method, block(case)), 1e-5, case.models)


@quick
@given(linear_maps(frames=2), st.booleans())
@pytest.mark.parametrize("method", AVERAGING, ids=by_name)
def test_there_need_be_no_base(method, case, held):
    """It is the same with one: float32 lies where the experts do, not at the base."""
    close(run(method, block(case, with_base=False)), run(method, block(case, held)), 1e-5, case.models)


# Where nothing is known


@quick
@given(linear_maps(count=3, frames=2), st.sampled_from([0.0, 0.9, 1.0]), st.sampled_from([0.0, 1e-6]))
def test_inputs_that_no_expert_saw_get_the_weighted_mean(case, alpha, jitter):
    for index in range(len(case.grams)):
        case.grams[index][:, 0] = case.grams[index][0, :] = 0.0
    mean = averages.linear(case.experts, case.weights)
    for merged in (run(REGMEAN, block(case), alpha=alpha, jitter=jitter), run(MATS, block(case))):
        close(merged[:, 0], mean[:, 0], 1e-6, case.models)


@quick
@given(linear_maps(count=3), st.sampled_from([0.0, 1e-6]))
def test_zeros_give_the_weighted_mean(case, level):
    zeros = replace(
        case,
        fishers=[np.zeros_like(fisher) for fisher in case.fishers],
        grams=[np.zeros_like(gram) for gram in case.grams],
    )
    mean = averages.linear(case.experts, case.weights)
    close(run(FISHER, block(zeros), floor=level), mean, 1e-6, case.models)
    close(run(REGMEAN, block(zeros), jitter=level), mean, 1e-6, case.models)
    close(run(MATS, block(zeros), ridge=level), mean, 1e-6, case.models)
    close(run(UGM, block(zeros), prior=0.0), mean, 1e-6, case.models)


@quick
@given(st.integers(0, 2**32), st.booleans())
def test_the_jitter_rescues_singular_gram_matrices(seed, held):
    """At α = 1: in the directions of the audio the solution, in the others the weighted mean."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(7, 7)))
    seen, unseen = turn[:, :4], turn[:, 4:]
    inputs = [random.normal(size=(20, 4)) for _ in range(2)]
    grams = [np.float32(seen @ one.T @ one @ seen.T) for one in inputs]
    experts = [random.normal(size=(3, 7)).astype(np.float32) for _ in range(2)]
    weights = list(random.uniform(0.5, 2, size=2))
    merged = run(REGMEAN, block(Case(experts[0], experts, weights, [], grams), held), alpha=1.0)
    mean = averages.linear(experts, weights)
    np.testing.assert_allclose(merged @ unseen, mean @ unseen, atol=0.3)
    inside = curvature.regmean([expert @ seen for expert in experts], weights, [one.T @ one for one in inputs], 1.0)
    np.testing.assert_allclose(merged @ seen, inside, atol=1e-3)


def test_early_stopping_leaves_what_matters_least():
    """After one of two iterations the steep direction is solved to some per cent, the flat one has hardly moved."""
    experts = [np.float32([[1, 1]]), np.float32([[3, 3]])]
    grams = [np.float32(np.diag([1.0, 1e-3])), np.float32(np.diag([3.0, 3e-3]))]
    made = block(Case(np.full((1, 2), 0.5, np.float32), experts, [1.0, 1.0], [], grams, [np.eye(1, dtype=np.float32)] * 2))
    one, two = (run(MATS, made, iterations=count)[0] for count in (1, 2))
    np.testing.assert_allclose(two, [2.5, 2.5], rtol=1e-6)
    assert abs(one[0] - 2.5) < 1e-3 and abs(one[1] - 2.0) < 0.01
    assert run(MATS, made, iterations=0).tolist() == [[2.0, 2.0]]
    assert run(MATS, made, iterations=0, start="task_arithmetic", start_scale=0.25).tolist() == [[1.25, 1.25]]
    held = replace(made, deltas=made.task_vectors())
    assert run(MATS, held, iterations=0, start="task_arithmetic").tolist() == [[3.5, 3.5]]
