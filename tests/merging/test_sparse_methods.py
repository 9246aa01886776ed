"""The sparsifying methods on blocks: against float64 NumPy, mergekit and peft, and the invariants of the methods' page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sparsified
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from asrmerge.errors import ConfigError
from asrmerge.merging import Block, get_method
from asrmerge.merging.block import Preparing

quick = settings(max_examples=40, deadline=None)
# Eighths are exact in float32, and so are their sums: equal magnitudes and sums of exactly 0 come up all the time.
EIGHTHS = st.integers(-40, 40).map(lambda number: number / 8)
QUARTERS = st.integers(-8, 8).map(lambda number: number / 4)
# Every method with parameters that drop something.
ALL = {
    "ties": {"density": 0.4},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "della": {"density": 0.5, "epsilon": 0.3},
    "della_linear": {"density": 0.5, "epsilon": 0.3},
    "breadcrumbs": {"density": 0.4, "gamma": 0.2},
    "breadcrumbs_ties": {"density": 0.4, "gamma": 0.2},
}
KEEP_ALL = {
    "ties": {"density": 1.0},
    "dare_linear": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "della": {"density": 1.0, "epsilon": 0.0},
    "della_linear": {"density": 1.0, "epsilon": 0.0},
    "breadcrumbs": {"density": 1.0},
    "breadcrumbs_ties": {"density": 1.0},
}
ELECTED = ["ties", "dare_ties", "della", "breadcrumbs_ties"]
SUMMED = ["dare_linear", "della_linear", "breadcrumbs"]
every_method = pytest.mark.parametrize("name", list(ALL))


@st.composite
def cases(draw, positive=False, min_dims=0, min_side=0):
    """Base, experts and weights as NumPy arrays; all shapes up to three dimensions, empty ones too."""
    shape = draw(st_numpy.array_shapes(min_dims=min_dims, max_dims=3, min_side=min_side, max_side=4))
    count = draw(st.integers(1, 4))
    arrays = [draw(st_numpy.arrays(np.float32, shape, elements=EIGHTHS)) for _ in range(count + 1)]
    weights = draw(st.lists(QUARTERS.filter(lambda weight: weight > 0) if positive else QUARTERS, min_size=count, max_size=count))
    return arrays[0], arrays[1:], weights


def block(base, experts, weights, held=False, names=None):
    base, experts = torch.tensor(base), [torch.tensor(expert) for expert in experts]
    deltas = [expert - base for expert in experts] if held else None
    return Block("x", base, experts, weights, deltas, names or [f"expert{i}" for i in range(len(experts))])


def run(name, made, **parameters):
    method = get_method(name)
    before = [tensor.clone() for tensor in (made.base, *made.experts, *(made.deltas or ()))]
    merged = method.merge(made, method.parameters(**parameters))
    for one, two in zip(before, (made.base, *made.experts, *(made.deltas or ())), strict=True):
        assert torch.equal(one, two)  # inputs are never written to
        assert merged.data_ptr() != two.data_ptr() or merged.numel() == 0
    assert merged.dtype == torch.float32
    assert merged.shape == made.shape
    assert torch.isfinite(merged).all()
    return merged.numpy()


def close(one, two):
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@quick
@given(cases(), st.floats(0.01, 1), QUARTERS, st.booleans(), st.sampled_from(["sum", "count"]), st.booleans())
def test_ties_is_the_reference(case, density, scale, normalize, election, held):
    base, experts, weights = case
    expected = sparsified.ties(base, experts, weights, density, scale, normalize, election)
    for scope in ("model", "tensor"):
        parameters = {"density": density, "scale": scale, "normalize": normalize, "election": election, "scope": scope}
        close(run("ties", block(base, experts, weights, held), **parameters), expected)


@quick
@given(cases(), st.floats(0.01, 1), st.floats(0, 0.99), QUARTERS, st.booleans(), st.sampled_from(["sum", "count"]))
def test_breadcrumbs_are_the_reference(case, density, gamma, scale, normalize, election):
    base, experts, weights = case
    made, band = block(base, experts, weights), {"density": density, "gamma": gamma, "scale": scale}
    close(run("breadcrumbs", made, **band), sparsified.breadcrumbs(base, experts, weights, density, gamma, scale))
    close(
        run("breadcrumbs_ties", made, **band, normalize=normalize, election=election),
        sparsified.breadcrumbs_ties(base, experts, weights, density, gamma, scale, normalize, election),
    )


@every_method
@quick
@given(case=cases(), random=st.randoms())
def test_permuting_pairs_changes_nothing(name, case, random):
    base, experts, weights = case
    order = list(range(len(experts)))
    random.shuffle(order)
    names = [f"expert{i}" for i in order]
    permuted = block(base, [experts[i] for i in order], [weights[i] for i in order], names=names)
    if name not in ("dare_ties", "della"):
        close(run(name, block(base, experts, weights), **ALL[name]), run(name, permuted, **ALL[name]))
        return
    # Divided by density, entries are no eighths any more, and a sum that should be 0 may round to either side.
    vectors = [weight * (expert - base) for weight, expert in zip(weights, experts, strict=True)]
    assume(np.abs(vectors).sum() == np.abs(np.sum(vectors, axis=0)).sum())
    close(run(name, block(base, experts, weights), **ALL[name]), run(name, permuted, **ALL[name]))


@every_method
@quick
@given(case=cases())
def test_zero_coefficients_return_the_base(name, case):
    base, experts, weights = case
    for held in (False, True):
        np.testing.assert_array_equal(run(name, block(base, experts, [0.0] * len(experts), held), **ALL[name]), base)
        np.testing.assert_array_equal(run(name, block(base, experts, weights, held), scale=0.0, **ALL[name]), base)


@every_method
@quick
@given(case=cases())
def test_held_task_vectors_give_the_same(name, case):
    base, experts, weights = case
    made, held = block(base, experts, weights), block(base, experts, weights, held=True)
    np.testing.assert_array_equal(run(name, made, **ALL[name]), run(name, held, **ALL[name]))


@every_method
@quick
@given(case=cases())
def test_turning_every_task_vector_turns_the_merge(name, case):
    _, vectors, weights = case
    zero = np.zeros_like(vectors[0])
    merged = run(name, block(zero, vectors, weights), **ALL[name])
    np.testing.assert_array_equal(run(name, block(zero, [-vector for vector in vectors], weights), **ALL[name]), -merged)


@quick
@given(cases(positive=True))
@pytest.mark.parametrize("name", ELECTED)
def test_identical_experts_come_back_where_all_is_kept(name, case):
    base, experts, weights = case
    close(run(name, block(base, [experts[0]] * len(experts), weights), **KEEP_ALL[name]), experts[0])


@every_method
@quick
@given(case=cases())
def test_one_expert_comes_back_where_all_is_kept(name, case):
    base, experts, _ = case
    close(run(name, block(base, experts[:1], [1.0]), **KEEP_ALL[name]), experts[0])


@quick
@given(cases(), QUARTERS)
def test_keeping_all_leaves_task_arithmetic_and_the_election(case, scale):
    made = block(*case)
    for name in SUMMED:
        close(run(name, made, scale=scale, **KEEP_ALL[name]), run("task_arithmetic", made, scale=scale))
    for name in ELECTED:
        close(run(name, made, scale=scale, **KEEP_ALL[name]), sparsified.ties(*case, 1.0, scale))


@quick
@given(cases())
@pytest.mark.parametrize("name", ["dare_ties", "della"])
def test_elected_entries_lie_among_the_agreeing_ones(name, case):
    """A mean of kept, rescaled entries: 0, or between the smallest and the largest of one sign."""
    base, experts, weights = case
    merged = run(name, block(base, experts, weights), **ALL[name]) - base
    vectors = [np.sign(weight) * (expert - base) for expert, weight in zip(experts, weights, strict=True)]
    highest = np.max([np.maximum(vector, 0) for vector in vectors], axis=0)
    lowest = np.min([np.minimum(vector, 0) for vector in vectors], axis=0)
    chance = 0.2 if name == "della" else 0.5
    assert np.all((merged <= highest / chance + 1e-4) & (merged >= lowest / chance - 1e-4))


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ([1.0, 1.0, 3.0], [-1.0, 1.0, 1.0], [1.0, 1.0, 2.0]),  # the majority is +
        ([1.0, -1.0, -3.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, -2.0]),  # the majority is −
        ([1.0, 1.0, -3.0], [-1.0, 1.0, -1.0], [0.0, 1.0, -2.0]),  # the majority is undecided, too: as in the base
        ([1.0, 2.0, 0.0], [-1.0, -2.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
def test_sums_of_zero_take_the_majority_sign(one, two, expected):
    made = block(np.zeros(3, np.float32), [np.float32(one), np.float32(two)], [1.0, 1.0])
    assert run("ties", made, density=1.0).tolist() == expected


def test_count_and_sum_elect_differently():
    made = block(np.zeros(1, np.float32), [np.float32([3.0]), np.float32([-1.0]), np.float32([-1.0])], [1.0] * 3)
    assert run("ties", made, density=1.0).tolist() == [3.0]
    assert run("ties", made, density=1.0, election="count").tolist() == [-1.0]


def test_negative_weights_subtract():
    """mergekit divides by Σ w = −1, and adds."""
    base, expert = np.ones(2, np.float32), np.float32([3.0, -1.0])
    made = block(base, [expert], [-1.0])
    for normalize in (True, False):
        assert run("ties", made, density=1.0, normalize=normalize).tolist() == [-1.0, 3.0]
    np.testing.assert_allclose(mergekit("ties", base, [expert], [-1.0], density=1.0), [3.0, -1.0])


@every_method
@pytest.mark.parametrize("shape", [(), (1,), (5,), (0,), (0, 3), (3, 0), (4, 1), (1, 4), (2, 1, 3), (2, 2, 2, 2)])
def test_any_shape(name, shape):
    generator = np.random.default_rng(1)
    base, *experts = (generator.standard_normal(shape).astype(np.float32) for _ in range(4))
    run(name, block(base, experts, [0.5, 1.0, -0.25]), **ALL[name])
    run(name, block(base, [base, base], [1.0, 1.0]), **ALL[name])  # zero task vectors


@every_method
@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 2)])
def test_strides_make_no_difference(name, shape):
    generator = np.random.default_rng(1)
    base, *experts = (generator.standard_normal(shape).astype(np.float32) for _ in range(4))
    weights = [0.5, 1.0, -0.25]
    made = block(base, experts, weights)
    turned = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in (made.base, *made.experts)]
    made = replace(made, base=turned[0], experts=turned[1:])
    assert not made.base.is_contiguous()
    np.testing.assert_array_equal(run(name, made, **ALL[name]), run(name, block(base, experts, weights), **ALL[name]))


@every_method
def test_base_is_needed(name):
    method = get_method(name)
    assert method.needs_base
    assert isinstance(method, Preparing) == (name == "ties")
    with pytest.raises(ConfigError, match=r"base.*: name (the base|it) in the recipe"):
        method.merge(Block("x", None, [torch.ones(2)], [1.0]), method.parameters())
    with pytest.raises(ConfigError, match=f"{name} needs a base: name it in the recipe"):
        method.merge(Block("x", None, [torch.ones(2)], [1.0], [torch.ones(2)]), method.parameters())


@every_method
def test_parameters_are_described(name):
    fields = get_method(name).parameters.model_fields
    assert {"density", "scale"} <= set(fields)
    for key, field in fields.items():
        assert field.description, key


def mergekit(name, base, experts, weights, **parameters):
    api = pytest.importorskip("mergekit.merge_methods.api")
    base_module = pytest.importorskip("mergekit.merge_methods.base")
    parameters["weight"] = base_module.PerInputValues(list(enumerate(weights, start=1)))
    return api.merge_tensors(
        [torch.tensor(array) for array in (base, *experts)], name, parameters=parameters, base_index=0
    ).numpy()


def continuous(shape, count, seed):
    """No equal magnitudes, no sums of 0."""
    generator = np.random.default_rng(seed)
    arrays = generator.standard_normal((count + 1, *shape)).astype(np.float32)
    return arrays[0], list(arrays[1:]), list(generator.uniform(0.2, 2, count))


# Numbers of entries and densities whose product is whole, because mergekit rounds it down.
WHOLE = [((20,), 0.25), ((4, 10), 0.5), ((5, 4, 5), 0.75), ((10, 10), 1.0)]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("shape", "density"), WHOLE)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ties_is_mergekits(shape, density, count, normalize):
    base, experts, weights = continuous(shape, count, seed=count)
    ours = run("ties", block(base, experts, weights), density=density, scope="tensor", normalize=normalize, scale=0.7)
    close(ours, mergekit("ties", base, experts, weights, density=density, normalize=normalize, **{"lambda": 0.7}))


@pytest.mark.parametrize(("shape", "density"), WHOLE)
@pytest.mark.parametrize("count", [1, 3])
def test_breadcrumbs_are_mergekits(shape, density, count):
    base, experts, weights = continuous(shape, count, seed=count)
    made, band = block(base, experts, weights), {"density": density, "gamma": 0.1}
    close(run("breadcrumbs", made, **band), mergekit("breadcrumbs", base, experts, weights, **band))
    for normalize in (True, False):
        close(
            run("breadcrumbs_ties", made, **band, normalize=normalize),
            mergekit("breadcrumbs_ties", base, experts, weights, **band, normalize=normalize),
        )


def test_mergekit_rounds_small_tensors_away():
    base, experts = np.zeros(3, np.float32), [np.float32([1.0, 2.0, 3.0])]
    assert not mergekit("breadcrumbs", base, experts, [1.0], density=0.3, gamma=0.0).any()
    assert run("breadcrumbs", block(base, experts, [1.0]), density=0.3, gamma=0.0).tolist() == [0.0, 0.0, 3.0]
    base, experts = np.zeros(100, np.float32), [np.arange(1, 101, dtype=np.float32)]
    assert np.count_nonzero(mergekit("ties", base, experts, [1.0], density=0.29)) == 28  # 0.29 · 100 is 28.999…
    assert np.count_nonzero(run("ties", block(base, experts, [1.0]), density=0.29)) == 29


def test_mergekit_elects_plus_where_the_sum_is_zero():
    base, experts = np.zeros(3, np.float32), [np.float32([1.0, -1.0, -1.0]), np.float32([-1.0, -1.0, -1.0])]
    assert mergekit("ties", base, experts, [1.0, 1.0], density=1.0).tolist() == [1.0, -1.0, -1.0]
    assert run("ties", block(base, experts, [1.0, 1.0]), density=1.0).tolist() == [-1.0, -1.0, -1.0]


@pytest.mark.parametrize(("shape", "density"), WHOLE[:3])
@pytest.mark.parametrize("election", ["sum", "count"])
def test_ties_of_equal_weights_is_pefts(shape, density, election):
    """peft's weights don't reach its election and its divisor, so that it is the same for weights of 1 only."""
    peft = pytest.importorskip("peft.utils.merge_utils")
    base, experts, _ = continuous(shape, 3, seed=5)
    vectors = [torch.tensor(expert - base) for expert in experts]
    method = {"sum": "total", "count": "frequency"}[election]
    expected = torch.tensor(base) + peft.ties(vectors, torch.ones(3), density, majority_sign_method=method)
    made = block(base, experts, [1.0] * 3)
    ours = run("ties", made, density=density, election=election)
    if election == "count":  # votes of +1 and −1 are often equal, where peft takes +
        votes = np.sum(
            [np.sign(sparsified.keep_largest(v.numpy(), sparsified.threshold([v.numpy()], density))) for v in vectors], axis=0
        )
        ours, expected = ours[votes != 0], expected[torch.tensor(votes != 0)]
    close(ours, expected.numpy())
