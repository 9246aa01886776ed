"""Linear and task arithmetic on blocks: against float64 NumPy, and the invariants of the methods' page."""

from __future__ import annotations

from dataclasses import replace

import averages
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from asrmerge.errors import ConfigError
from asrmerge.merging import Block, find_methods, get_method
from asrmerge.search.soup import greedy_soup

FLOATS = st.floats(-10, 10, width=32)
LINEAR, TASK_ARITHMETIC = get_method("linear"), get_method("task_arithmetic")
quick = settings(max_examples=40, deadline=None)


@st.composite
def cases(draw, positive=False):
    """Base, experts and weights as NumPy arrays."""
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=3))
    count = draw(st.integers(1, 4))
    arrays = [draw(st_numpy.arrays(np.float32, shape, elements=FLOATS)) for _ in range(count + 1)]
    weights = draw(st.lists(st.floats(0.1 if positive else -2, 2, allow_subnormal=False), min_size=count, max_size=count))
    return arrays[0], arrays[1:], weights


def block(base, experts, weights, held=False):
    base, experts = torch.tensor(base), [torch.tensor(expert) for expert in experts]
    return Block("x", base, experts, weights, [expert - base for expert in experts] if held else None)


def run(method, made, **parameters):
    copies = [made.base.clone(), *[expert.clone() for expert in made.experts]]
    merged = method.merge(made, method.parameters(**parameters))
    for before, after in zip(copies, [made.base, *made.experts], strict=True):
        assert torch.equal(before, after)  # inputs are never written to
    assert merged.dtype == torch.float32
    assert merged.shape == copies[0].shape
    return merged.numpy()


def close(one, two):
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-4)


@quick
@given(cases(), st.booleans(), st.booleans())
def test_linear_is_the_reference(case, normalize, held):
    base, experts, weights = case
    assume(not normalize or abs(sum(weights)) > 0.2)
    close(run(LINEAR, block(base, experts, weights, held), normalize=normalize), averages.linear(experts, weights, normalize))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_greedy_soup_of_linear_merges_is_the_reference(count):
    """Judged by the distance from a vector that some of the experts are near to."""
    sizes = set()
    for seed in range(20):
        generator = np.random.default_rng(seed)
        target = generator.normal(size=12)
        experts = [(target + generator.normal(size=12) * 1.5**index).astype(np.float32) for index in range(count)]
        models = dict(zip("abcde", experts, strict=False))

        def soup(members, models=models):
            chosen = [models[name] for name in members]
            return run(LINEAR, block(chosen[0], chosen, [1.0] * len(chosen)))

        def distance(members, soup=soup, target=target):
            return float(((soup(members).astype(np.float64) - target) ** 2).sum())

        members = greedy_soup({name: distance((name,)) for name in models}, distance)
        close(soup(members), averages.greedy_soup(experts, target))
        sizes.add(len(members))
    assert len(sizes) >= min(count, 2)  # experts are kept, and experts are left out


@quick
@given(cases(), st.floats(-3, 3), st.booleans())
def test_task_arithmetic_is_the_reference(case, scale, held):
    base, experts, weights = case
    close(
        run(TASK_ARITHMETIC, block(base, experts, weights, held), scale=scale),
        averages.task_arithmetic(base, experts, weights, scale),
    )


@quick
@given(cases(positive=True), st.randoms())
@pytest.mark.parametrize("method", [LINEAR, TASK_ARITHMETIC])
def test_permuting_pairs_changes_nothing(method, case, random):
    base, experts, weights = case
    order = list(range(len(experts)))
    random.shuffle(order)
    permuted = block(base, [experts[i] for i in order], [weights[i] for i in order])
    close(run(method, block(base, experts, weights)), run(method, permuted))


@quick
@given(cases(), st.data())
@pytest.mark.parametrize("method", [LINEAR, TASK_ARITHMETIC])
def test_one_hot_weight_returns_that_expert(method, case, data):
    base, experts, _ = case
    chosen = data.draw(st.integers(0, len(experts) - 1))
    weights = [float(i == chosen) for i in range(len(experts))]
    merged = run(method, block(base, experts, weights))
    if method is LINEAR:
        np.testing.assert_array_equal(merged, experts[chosen])
    else:
        close(merged, experts[chosen])


@quick
@given(cases(positive=True))
def test_identical_experts_come_back(case):
    base, experts, weights = case
    same = [experts[0]] * len(experts)
    close(run(LINEAR, block(base, same, weights)), experts[0])
    close(run(TASK_ARITHMETIC, block(base, same, weights), scale=1 / sum(weights)), experts[0])


@quick
@given(cases(positive=True))
def test_task_arithmetic_moves_identical_experts_unless_weights_sum_to_one(case):
    base, experts, weights = case
    assume(abs(sum(weights) - 1) > 0.1 and np.abs(experts[0] - base).max(initial=0) > 1)
    merged = run(TASK_ARITHMETIC, block(base, [experts[0]] * len(experts), weights))
    assert np.abs(merged - experts[0]).max() > 0.05


@quick
@given(cases())
def test_zero_coefficients_return_the_base(case):
    base, experts, weights = case
    for held in (False, True):
        np.testing.assert_array_equal(run(TASK_ARITHMETIC, block(base, experts, [0.0] * len(experts), held)), base)
        np.testing.assert_array_equal(run(TASK_ARITHMETIC, block(base, experts, weights, held), scale=0.0), base)


def test_weights_that_cannot_be_normalised():
    made = block(np.zeros(2, np.float32), [np.ones(2, np.float32)] * 2, [1.0, -1.0])
    with pytest.raises(ConfigError, match="linear cannot normalise weights that sum to 0: change a weight, or set normalize"):
        run(LINEAR, made)
    np.testing.assert_array_equal(run(LINEAR, made, normalize=False), np.zeros(2))


def test_base_is_needed():
    made = Block("x", None, [torch.ones(2)], [1.0])
    with pytest.raises(ConfigError, match="task_arithmetic needs a base: name it in the recipe"):
        TASK_ARITHMETIC.merge(made, TASK_ARITHMETIC.parameters())
    with pytest.raises(ConfigError, match="x has no base to subtract: name the base"):
        made.task_vectors()
    assert torch.equal(LINEAR.merge(made, LINEAR.parameters()), torch.ones(2))
    assert made.shape == (2,)


@quick
@given(cases(), st.floats(0.1, 2))
@pytest.mark.parametrize("name", [name for name, one in find_methods().items() if getattr(one, "weights_multiply", False)])
def test_what_says_that_weights_multiply_adds_as_much_more(name, case, factor):
    base, experts, weights = case
    method = get_method(name)
    one, more = (run(method, block(base, experts, [f * weight for weight in weights])) for f in (1.0, factor))
    size = float(max(np.abs(array).max(initial=0) for array in (base, *experts)))
    np.testing.assert_allclose(more - base, factor * (one - base), rtol=1e-3, atol=1e-5 * max(size, 1e-3))


@quick
@given(cases(positive=True), st.floats(0.2, 4))
@pytest.mark.parametrize(
    "name",
    [name for name, one in find_methods().items() if getattr(one, "weights_share", False) and not getattr(one, "statistics", ())],
)
def test_what_says_that_weights_are_shares_merges_the_same_with_twice_of_all(name, case, factor):
    base, experts, weights = case
    names = [f"expert{index}" for index in range(len(experts))]
    method = get_method(name)
    blocks = [replace(block(base, experts, [f * weight for weight in weights]), expert_names=names) for f in (1.0, factor)]
    one, more = (run(method, made) for made in blocks)
    size = float(max(np.abs(array).max(initial=0) for array in (base, *experts)))
    np.testing.assert_allclose(more, one, rtol=1e-3, atol=1e-4 * max(size, 1e-3))


SEVERAL = [name for name, one in find_methods().items() if not hasattr(one, "expert_count") and name != "passthrough"]


@quick
@given(cases(positive=True), st.booleans())
@pytest.mark.parametrize("name", SEVERAL)
def test_an_expert_of_weight_zero_takes_no_part(name, case, held):
    base, experts, weights = case
    method = get_method(name)
    names = [f"expert{index}" for index in range(len(experts) + 1)]
    merged = [
        run(method, replace(made, expert_names=names[: len(made.weights)], fishers=[torch.ones(base.shape)] * len(made.weights)))
        for made in (block(base, experts, weights, held), block(base, [*experts, -3 * experts[0]], [*weights, 0.0], held))
    ]
    close(*merged)


@quick
@given(cases(positive=True), st.data())
@pytest.mark.parametrize("name", [name for name, one in find_methods().items() if getattr(one, "elementwise", False)])
def test_what_says_that_it_is_elementwise_may_be_cut(name, case, data):
    base, experts, weights = case
    if name in ("wise_ft", "passthrough"):
        experts, weights = experts[:1], [1]
    method = get_method(name)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    base_fisher, *fishers = [random.gamma(0.3, size=base.size).astype(np.float32) for _ in [base, *experts]]

    def merge(shape, part=slice(None)):
        made = block(base.ravel()[part].reshape(shape), [expert.ravel()[part].reshape(shape) for expert in experts], weights)
        known = [torch.tensor(fisher[part].reshape(shape)) for fisher in (base_fisher, *fishers)]
        return run(method, replace(made, base_fisher=known[0], fishers=known[1:])).ravel()

    cut = data.draw(st.integers(0, base.size))
    pieces = [merge(-1, part) for part in (slice(0, cut), slice(cut, base.size))]
    whole = merge(base.shape)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
