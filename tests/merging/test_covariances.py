"""The solver that the curvature methods share: that it finds minima, and stays at the start where nothing is known."""

from __future__ import annotations

import averages
import curvature
import numpy as np
import pytest
import scipy.optimize
import torch
from curvature_blocks import FISHER, block, entries, linear_maps, quick, run
from hypothesis import given
from hypothesis import strategies as st
from sphere_blocks import close

from asrmerge.merging.methods._conjugate_gradients import conjugate_gradients
from asrmerge.merging.methods._covariances import (
    Accuracy,
    Diagonal,
    Gram,
    Identity,
    IndefiniteError,
    Kronecker,
    cholesky_with_ridge,
    frechet_mean,
    weighted_mean,
)

FAR = Accuracy(iterations=1000, tolerance=1e-13)


def tensors(arrays):
    return [torch.tensor(array) for array in arrays]


def metrics_of(kind, case):
    if kind == "identity":
        return [Identity() for _ in case.experts]
    if kind == "diagonal":
        return [Diagonal(fisher) for fisher in tensors(case.fishers)]
    if kind == "gram":
        return [Gram(gram, 0.7) for gram in tensors(case.grams)]
    if kind == "kronecker":
        return [Kronecker(factor, gram) for factor, gram in zip(tensors(case.factors), tensors(case.grams), strict=True)]
    every = [metrics_of(one, case) for one in ("identity", "diagonal", "gram", "kronecker")]
    return [every[index % 4][index] for index in range(len(case.experts))]


def objective(case, metrics, theta):
    """Σ wₜ(θ − θₜ)ᵀCₜ(θ − θₜ) in float64."""
    total = 0.0
    for expert, metric, weight in zip(case.experts, metrics, case.weights, strict=True):
        deviation = torch.tensor(theta.reshape(expert.shape) - np.float64(expert))
        total += weight * float((deviation * metric.apply(deviation)).sum())
    return total


# The Fréchet mean


@quick
@given(linear_maps(), st.sampled_from(["identity", "diagonal", "gram", "kronecker", "mixed"]), st.integers(0, 2**32))
def test_frechet_mean_is_where_the_gradient_vanishes(case, kind, seed):
    metrics = metrics_of(kind, case)
    found = frechet_mean(tensors(case.experts), metrics, case.weights, accuracy=FAR)
    pulls = [
        weight * metric.apply(found.tensor.double() - torch.tensor(expert, dtype=torch.float64)).double()
        for expert, metric, weight in zip(case.experts, metrics, case.weights, strict=True)
    ]
    size = sum(
        weight * float(metric.apply(torch.tensor(np.abs(expert)).double() + 1).abs().sum())
        for expert, metric, weight in zip(case.experts, metrics, case.weights, strict=True)
    )
    assert float(sum(pulls).abs().max()) < 1e-6 * size
    around = np.random.default_rng(seed)
    here = found.tensor.double().numpy()
    for _ in range(5):
        step = around.normal(size=here.shape)
        assert objective(case, metrics, here) <= objective(case, metrics, here + step)


@quick
@given(entries())
def test_fisher_merging_is_the_frechet_mean_with_frozen_fisher_information(case):
    """The minimum is looked for by a general optimiser that knows the objective alone."""
    merged = run(FISHER, block(case), floor=0.0)
    metrics = [Diagonal(fisher) for fisher in tensors(case.fishers)]
    found = frechet_mean(tensors(case.experts), metrics, case.weights)
    close(merged, found.tensor.numpy(), 1e-6, case.models)
    if case.base.size == 0:
        return
    scale = np.sqrt(sum(weight * np.float64(fisher) for weight, fisher in zip(case.weights, case.fishers, strict=True)))

    def stretched(values):  # the same minimum, with directions of one curvature each, as optimisers like it
        theta = values.reshape(case.base.shape) / scale + case.base
        deviations = [theta - np.float64(expert) for expert in case.experts]
        pairs = list(zip(case.weights, case.fishers, deviations, strict=True))
        value = sum(weight * (fisher * deviation**2).sum() for weight, fisher, deviation in pairs)
        gradient = sum(2 * weight * fisher * deviation for weight, fisher, deviation in pairs) / scale
        return value, np.asarray(gradient).ravel()

    best = scipy.optimize.minimize(stretched, np.zeros(case.base.size), jac=True, method="BFGS", options={"gtol": 1e-10})
    close(merged, best.x.reshape(case.base.shape) / scale + case.base, 1e-5)


@quick
@given(entries(), st.floats(1e-3, 1e3))
def test_with_the_identity_it_is_the_weighted_mean(case, factor):
    """From any start, and whatever all metrics are multiplied by."""
    expected = averages.linear(case.experts, case.weights)
    metrics = [Identity(factor=factor) for _ in case.experts]
    start = torch.zeros(case.base.shape)
    close(frechet_mean(tensors(case.experts), metrics, case.weights, start).tensor, expected, 1e-6, case.models)
    close(frechet_mean(tensors(case.experts), metrics, case.weights).tensor, expected, 1e-6, case.models)
    close(weighted_mean(tensors(case.experts), case.weights), expected, 1e-6, case.models)


@quick
@given(linear_maps())
def test_direct_solvers_and_conjugate_gradients_agree(case):
    """Each metric as a Kronecker product, which only conjugate gradients take."""
    ones = torch.eye(len(case.base))
    for direct, product in (
        (metrics_of("identity", case), [Kronecker(ones, torch.eye(case.base.shape[1])) for _ in case.experts]),
        ([Gram(gram) for gram in tensors(case.grams)], [Kronecker(ones, gram) for gram in tensors(case.grams)]),
    ):
        one, other = (frechet_mean(tensors(case.experts), each, case.weights, accuracy=FAR) for each in (direct, product))
        close(one.tensor, other.tensor.numpy(), 1e-5, case.models)
        assert one.iterations == 0 and one.residual == 0


def test_sums_of_one_kind_and_the_identity_are_solved_directly():
    gram, experts = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), [torch.ones(1, 2), torch.tensor([[3.0, -1.0]])]
    found = frechet_mean(experts, [Gram(gram), Identity(factor=0.5)], [1, 2])
    expected = np.linalg.solve(gram.numpy() + np.eye(2), (experts[0] @ gram + experts[1]).numpy()[0])
    np.testing.assert_allclose(found.tensor[0], expected, rtol=1e-6)
    assert found.iterations == 0
    found = frechet_mean(experts, [Diagonal(torch.tensor([[1.0, 0.0]])), Identity()], [1, 3])
    np.testing.assert_allclose(found.tensor, [[(1 + 9) / 4, -1.0]])


@quick
@given(linear_maps(count=2), st.sampled_from(["identity", "diagonal", "gram", "kronecker"]), st.floats(0.1, 3))
def test_mean_eigenvalue_is_the_trace_over_the_entries(case, kind, factor):
    operator = metrics_of(kind, case)[0].times(factor)
    units = torch.eye(case.base.size, dtype=torch.float64).reshape(-1, *case.base.shape)
    trace = sum(float((unit * operator.apply(unit)).sum()) for unit in units)
    assert operator.mean_eigenvalue() == pytest.approx(trace / case.base.size, rel=1e-5)


# Where nothing is known


def test_nothing_known_leaves_the_start():
    experts = [torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 4.0]])]
    start = torch.tensor([[10.0, 20.0]])
    zeros, one = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    for metrics in (
        [Gram(zeros)] * 2,
        [Kronecker(torch.ones(1, 1), zeros)] * 2,
        [Kronecker(torch.zeros(1, 1), one)] * 2,
        [Diagonal(torch.zeros(1, 2))] * 2,
    ):
        assert torch.equal(frechet_mean(experts, metrics, [1, 1], start).tensor, start)
        assert torch.equal(frechet_mean(experts, metrics, [3, 1]).tensor, torch.tensor([[2.0, 2.5]]))
    for metrics in ([Gram(one)] * 2, [Kronecker(torch.ones(1, 1), one)] * 2, [Diagonal(one[:1])] * 2):
        found = frechet_mean(experts, metrics, [1, 1], start).tensor
        np.testing.assert_allclose(found, [[3.0, 20.0]], rtol=1e-6)


def test_tiny_information_decides_as_any():
    """Products of it and of small deviations would underflow in float32."""
    experts = [torch.tensor([1e-6]), torch.tensor([3e-6])]
    found = frechet_mean(experts, [Diagonal(torch.tensor([3e-37])), Diagonal(torch.tensor([1e-37]))], [1, 1])
    np.testing.assert_allclose(found.tensor, [1.5e-6], rtol=1e-5)


# Cholesky


def test_ridge_grows_until_half_of_it_makes_the_matrix_definite():
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))

    def matrix(least):
        return torch.tensor(turn @ np.diag([least, 1, 2, 4]) @ turn.T)

    for least, given_ridge, expected in ((0.5, 0.0, 0.0), (0.5, 1e-6, 1e-6), (-3e-6, 1e-6, 1e-5), (-1e-3, 0.0, 1e-2)):
        whole = matrix(least)
        mean = float(whole.diagonal().mean())
        factor, used = cholesky_with_ridge(whole.clone(), mean, given_ridge)
        assert used == pytest.approx(expected)
        expected = whole + used * mean * torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(factor @ factor.T, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(IndefiniteError, match="eigenvalues far below zero"):
        cholesky_with_ridge(matrix(-5.0), 0.5, 1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_rounding_in_place_of_information_moves_nothing(seed):
    """Gram matrices of rank 3 in float32 have eigenvalues of either sign for the 40 directions without data."""
    random = np.random.default_rng(seed)
    inputs = [random.normal(size=(3, 43)) for _ in range(2)]
    grams = tensors(np.float32(one.T @ one / 3) for one in inputs)
    experts = [torch.tensor(random.normal(size=(5, 43)), dtype=torch.float32) for _ in range(2)]
    total = sum(gram.double() for gram in grams)
    # The last is nearly minus the least eigenvalue: with it alone the matrix is as good as singular.
    worst = -float(torch.linalg.eigvalsh(total)[0]) / float(total.diagonal().mean()) * (1 + 1e-5)
    for ridge in (1e-12, 1e-9, 1e-8, 1e-7, 1e-6, worst):
        found = frechet_mean(experts, [Gram(gram) for gram in grams], [1, 1], accuracy=Accuracy(ridge=ridge))
        seen = np.linalg.qr(np.concatenate(inputs).T)[0]
        away = found.tensor.double().numpy() - np.mean([expert.double().numpy() for expert in experts], axis=0)
        assert np.abs(away - away @ seen @ seen.T).max() < 2
        for gram, expert in zip(inputs, experts, strict=True):  # two tasks of 3 inputs: both outputs can be met
            np.testing.assert_allclose(found.tensor.double() @ gram.T, expert.double() @ gram.T, atol=0.02)


# Conjugate gradients


@quick
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**32))
def test_conjugate_gradients_solve_consistent_equations(size, rank, seed):
    """With as many iterations as there are eigenvalues; a part without information stays zero."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(size, size)))
    values = np.concatenate([random.uniform(1, 3, size=min(rank, size)), np.zeros(max(size - rank, 0))])
    matrix = turn @ np.diag(values) @ turn.T
    right = matrix @ random.normal(size=size)
    apply = lambda x: torch.tensor(matrix) @ x  # noqa: E731
    found = conjugate_gradients(apply, torch.tensor(right), 4 * size, 1e-12)
    np.testing.assert_allclose(found.tensor, np.linalg.pinv(matrix, rcond=1e-9) @ right, atol=1e-8)
    assert found.residual <= 1e-12 or not right.any()


@quick
@given(linear_maps(count=3), st.integers(0, 8))
def test_iterations_and_residual_are_the_true_ones(case, limit):
    """The residual that is reported is that of the equation, and each iteration lowers the objective."""
    metrics = metrics_of("kronecker", case)
    start = np.average([np.float64(expert) for expert in case.experts], axis=0, weights=case.weights)

    def distance(theta):
        pulls = [
            weight * np.float64(factor) @ (np.float64(expert) - theta) @ np.float64(gram)
            for expert, factor, gram, weight in zip(case.experts, case.factors, case.grams, case.weights, strict=True)
        ]
        return np.linalg.norm(sum(pulls))

    found = [
        frechet_mean(tensors(case.experts), metrics, case.weights, accuracy=Accuracy(iterations=count, tolerance=1e-6))
        for count in (limit, limit + 1)
    ]
    assert found[0].iterations <= limit
    assert found[0].iterations == limit or found[0].residual <= 1e-6
    exact = distance(start)
    assert found[0].residual == pytest.approx(distance(found[0].tensor.double().numpy()) / exact, rel=1e-2, abs=3e-3)
    values = [objective(case, metrics, one.tensor.double().numpy()) for one in found]
    assert values[1] <= values[0] * (1 + 1e-5) + 1e-12


def test_no_iterations_and_nothing_to_do():
    case_of = lambda value: torch.full((2, 2), value)  # noqa: E731
    metric = Kronecker(torch.eye(2), torch.eye(2))
    same = frechet_mean([case_of(3.0)] * 2, [metric] * 2, [1, 1])
    assert (same.iterations, same.residual) == (0, 0.0) and torch.equal(same.tensor, case_of(3.0))
    start = frechet_mean([case_of(3.0)], [metric], [1], case_of(1.0), Accuracy(iterations=0))
    assert (start.iterations, start.residual) == (0, 1.0) and torch.equal(start.tensor, case_of(1.0))
    one = frechet_mean([case_of(3.0)], [metric], [1], case_of(1.0))
    assert one.iterations == 1 and torch.equal(one.tensor, case_of(3.0))


def test_a_direction_of_negative_curvature_ends_the_iterations():
    matrix = torch.diag(torch.tensor([1.0, -1e-9], dtype=torch.float64))
    found = conjugate_gradients(lambda x: matrix @ x, torch.tensor([1.0, 1e-9], dtype=torch.float64), 100, 1e-14)
    np.testing.assert_allclose(found.tensor, [1, 0], atol=1e-6)
    assert 0 < found.residual < 1e-6


def test_the_dense_reference_solves_its_equation():
    """The reference against the other one, so that a mistake in both is unlikely."""
    random = np.random.default_rng(3)
    experts = [random.normal(size=(3, 4)) for _ in range(2)]
    inputs = [random.normal(size=(9, 4)) for _ in range(2)]
    grams = [one.T @ one for one in inputs]
    merged = curvature.regmean(experts, [0.3, 0.7], grams, alpha=1.0)
    np.testing.assert_allclose(curvature.mats(experts, [0.3, 0.7], grams, [np.eye(3)] * 2), merged, rtol=1e-9)
    weighted = [np.sqrt(weight) * one for weight, one in zip([0.3, 0.7], inputs, strict=True)]
    wanted = [one @ expert.T for one, expert in zip(weighted, experts, strict=True)]
    by_least_squares = np.linalg.lstsq(np.concatenate(weighted), np.concatenate(wanted), rcond=None)[0].T
    np.testing.assert_allclose(merged, by_least_squares, rtol=1e-9)
