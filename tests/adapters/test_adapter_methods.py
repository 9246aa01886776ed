"""Methods for LoRA factors: against float64 NumPy on full deltas, PEFT, and the invariants of the methods' page."""

from __future__ import annotations

import itertools

import lora
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asrmerge.adapters import FactorBlock, Factors, find_adapter_methods, get_adapter_method
from asrmerge.adapters.methods import procrustes, quotient
from asrmerge.adapters.thin import reduce
from asrmerge.errors import ConfigError
from asrmerge.validation import validate

OUT, IN = 9, 7
# With the parameters under which a method returns identical adapters.
MEANS = {
    "product": {}, "procrustes": {}, "quotient": {}, "quotient-inv": {"metric": "inv"}, "grassmann_core": {},
    "knots": {"combine": "mean"}, "knots-ties": {"density": 1.0},
}  # fmt: skip
SUMS = {"svd": {}, "cat": {}, "dare_linear_svd": {"density": 1.0}}
OTHERS = {"ties_svd": {"density": 0.5}, "knots-trimmed": {"density": 0.5}, "dare_linear_svd": {}, "dare_ties_svd": {}}
ALL = [*MEANS.items(), *SUMS.items(), *OTHERS.items()]
quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10**6)


def factors(seed, ranks, shape=(OUT, IN)):
    generator = torch.Generator().manual_seed(seed)
    return [
        Factors(torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator))
        for rank in ranks
    ]


def run(name, given, weights=None, **parameters):
    """B·A of the merge in float64, from which the inputs come out unchanged."""
    method = get_adapter_method(name.partition("-")[0])
    weights = weights or [1.0] * len(given)
    copies = [(one.b.clone(), one.a.clone()) for one in given]
    names = tuple(str(hash(one.b.shape)) + str(index) for index, one in enumerate(given))
    block = FactorBlock("layer", given, weights, parameters.pop("names", names))
    merged = method.merge(block, validate(method.parameters, parameters, "test"))
    for (b, a), one in zip(copies, given, strict=True):
        assert torch.equal(b, one.b) and torch.equal(a, one.a)
    assert merged.a.dtype == merged.b.dtype == torch.float32
    assert merged.shape == given[0].shape
    assert torch.isfinite(merged.b).all() and torch.isfinite(merged.a).all()
    return lora.delta(merged.b.numpy(), merged.a.numpy())


def deltas(given):
    return [lora.delta(one.b.numpy(), one.a.numpy()) for one in given]


def close(one, two, tolerance=1e-5):
    assert np.linalg.norm(one - two) <= tolerance * max(np.linalg.norm(two), 1e-3)


def turned(one, seed):
    """The same adapter in other factors, (BM, M⁻¹A), with M far from orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    q, p = (torch.linalg.qr(torch.randn(one.rank, one.rank, generator=generator))[0] for _ in range(2))
    m = q @ torch.diag(torch.linspace(0.3, 5.0, one.rank)) @ p
    return Factors(one.b @ m, torch.linalg.solve(m, one.a))


@pytest.mark.parametrize(("name", "parameters"), ALL)
def test_factors_of_the_same_adapter_give_the_same(name, parameters):
    for seed in (*range(6), 57, 95):
        given = factors(seed, [3, 2, 3])
        same = [turned(one, seed + index) for index, one in enumerate(given)]
        assert not torch.allclose(given[0].b, same[0].b, atol=0.1)
        weights = [0.5, 0.8, 0.7]
        close(run(name, same, weights, **parameters), run(name, given, weights, **parameters))


@pytest.mark.parametrize(("name", "parameters"), ALL)
def test_permuting_pairs_changes_nothing(name, parameters):
    given, weights, names = factors(1, [3, 2, 4]), [0.5, 0.8, 0.7], ("x", "y", "z")
    merged = run(name, given, weights, names=names, **parameters)
    for order in itertools.permutations(range(3)):
        shuffled = [[values[i] for i in order] for values in (given, weights, names)]
        close(run(name, shuffled[0], shuffled[1], names=tuple(shuffled[2]), **parameters), merged)


@quick
@given(seeds)
@pytest.mark.parametrize(("name", "parameters"), [*MEANS.items(), ("ties_svd", {"density": 1.0})])
def test_identical_adapters_come_back(name, parameters, seed):
    one = factors(seed, [3])[0]
    close(run(name, [one, turned(one, seed), one], [0.2, 1.0, 2.0], **parameters), deltas([one])[0])


@pytest.mark.parametrize(("name", "parameters"), [*MEANS.items(), *SUMS.items(), ("ties_svd", {"density": 1.0})])
def test_one_hot_weight_returns_that_adapter(name, parameters):
    given = factors(2, [3, 2, 4])
    for chosen in range(3):
        weights = [float(index == chosen) for index in range(3)]
        close(run(name, given, weights, **parameters), deltas(given)[chosen])


@pytest.mark.parametrize(("name", "parameters"), SUMS.items())
def test_sums_need_weights_of_sum_one(name, parameters):
    one = factors(3, [2])[0]
    close(run(name, [one, one], [0.3, 0.7], **parameters), deltas([one])[0])
    close(run(name, [one, one], [1.0, 0.7], **parameters), 1.7 * deltas([one])[0])
    close(run(name, [one, one], [1.0, -1.0], **parameters), 0 * deltas([one])[0])


@quick
@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_product_is_the_best_approximation(seed, ranks):
    given = factors(seed, ranks)
    weights = [1.0 + index for index in range(len(ranks))]
    wanted = lora.product(deltas(given), weights, max(ranks))
    close(run("product", given, weights), wanted)
    close(run("product", given, weights, rank=1), lora.product(deltas(given), weights, 1))
    close(run("product", given, weights, normalize=False), sum(weights) * wanted)
    close(run("svd", given, weights), sum(weights) * wanted)
    full = lora.mean(deltas(given), weights)
    error = np.linalg.norm(run("product", given, weights) - full)
    assert error <= np.sqrt((np.linalg.svd(full, compute_uv=False)[max(ranks) :] ** 2).sum()) + 1e-5  # Eckart–Young


@pytest.mark.parametrize("name", ["product", "svd", "grassmann_core"])
def test_lossless(name):
    given, weights = factors(4, [1, 2, 3]), [0.2, 0.3, 0.5]
    close(run(name, given, weights, rank="lossless"), lora.mean(deltas(given), weights))
    close(run("cat", given, weights), lora.mean(deltas(given), weights))
    assert np.linalg.norm(run(name, given, weights) - lora.mean(deltas(given), weights)) > 0.1


@quick
@given(seeds)
def test_references(seed):
    given, weights = factors(seed, [3, 3, 3]), [0.5, 0.8, 0.7]
    full = deltas(given)
    close(run("procrustes", given, weights, iterations=4), lora.procrustes(full, weights, 3, 4))
    close(run("grassmann_core", given, weights, rank=4), lora.grassmann_core(full, weights, 4), 1e-4)
    for density, scale in ((1.0, 1.0), (0.4, 1.5)):
        options = {"density": density, "scale": scale}
        close(run("ties_svd", given, weights, **options), lora.ties(full, weights, 3, **options))
        close(run("knots", given, weights, **options), lora.knots(full, weights, 3, **options))
    close(run("knots", given, weights, combine="mean"), lora.product(full, weights, 3))


@quick
@given(seeds, st.sampled_from([0.2, 1.0]))
def test_knots_with_adapters_that_lack_the_layer(seed, density):
    """Rounding in place of their zeros would vote as loudly as the one that has the layer."""
    one, absent = factors(seed, [3])[0], Factors(torch.zeros(OUT, 0), torch.zeros(0, IN))
    untrained = Factors(torch.zeros(OUT, 2), torch.ones(2, IN))
    alone = run("knots", [one], [0.4], density=density)
    close(alone, lora.knots(deltas([one]), [0.4], 3, density, 1.0))
    for company in ([absent, one], [untrained, one, absent]):
        close(run("knots", company, [0.4] * len(company), density=density), alone)


def test_procrustes_never_rises():
    for seed in range(5):
        _, cores = reduce(factors(seed, [3, 3, 3]))
        points = [procrustes.balanced(core, 3)[0] for core in cores]
        start = procrustes.balanced(sum(cores) / 3, 3)[0]
        _, objectives = procrustes.align(points, [1 / 3] * 3, start, 20)
        assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(objectives))
        assert objectives[-1] < objectives[0] * (1 - 1e-4)


@pytest.mark.parametrize("metric", ["mix", "inv"])
def test_quotient_falls_to_a_minimum_of_what_it_says(metric):
    parameters = quotient.QuotientParameters(metric=metric, iterations=300, tolerance=0.0, floor=0.05)
    for seed, amount in ((0, 0.3), (1, 0.15)):
        root, *others = factors(seed, [2, 2, 2, 2], (6, 5))
        given = [Factors(root.b + amount * one.b, root.a + amount * one.a) for one in others]  # fine-tunes from one start
        full, weights = deltas(given), [0.2, 0.3, 0.5]
        frames, cores = reduce(given)
        mean, history = quotient.descend(cores, weights, 2, parameters)
        assert all(after < before for before, after in itertools.pairwise(history))
        assert history[-1] < history[0] * (1 - 1e-4)
        found = (frames.left @ mean @ frames.right.T).numpy()
        objective = lora.quotient_objective(found, full, weights, 2, metric, 0.05)
        # Another optimiser of the rotations agrees on both ends, up to the unit in which the descent counts.
        unit = max(np.linalg.norm(one, 2) for one in full) ** (2 if metric == "mix" else 0)
        start = lora.quotient_objective(lora.product(full, weights, 2), full, weights, 2, metric, 0.05)
        assert objective == pytest.approx(history[-1] * unit, rel=1e-3)
        assert start == pytest.approx(history[0] * unit, rel=1e-3)
        generator = np.random.default_rng(seed)
        for size in (1e-2, 1e-2, 1e-3, 1e-3):
            moved = lora.best_rank(found + size * np.linalg.norm(found) * generator.normal(size=found.shape) / 5, 2)
            assert lora.quotient_objective(moved, full, weights, 2, metric, 0.05) >= objective * (1 - 1e-6)


def test_quotient_does_not_end_above_product():
    for seed, metric in itertools.product(range(4), ("mix", "inv")):
        _, cores = reduce(factors(seed, [4, 1, 2]))
        _, history = quotient.descend(cores, [1 / 3] * 3, 4, quotient.QuotientParameters(metric=metric))
        assert history[-1] <= history[0]


@pytest.mark.parametrize(("name", "parameters"), ALL)
def test_edge_cases(name, parameters):
    zero = Factors(torch.zeros(OUT, 2), torch.randn(2, IN))
    absent = Factors(torch.zeros(OUT, 0), torch.zeros(0, IN))
    close(run(name, [zero, zero], **parameters), np.zeros((OUT, IN)))
    close(run(name, [zero, absent], **parameters), np.zeros((OUT, IN)))
    run(name, [*factors(0, [3]), zero, absent], **parameters)
    run(name, factors(0, [3]), **parameters)
    run(name, factors(0, [1, 1], (1, 4)), **parameters)
    run(name, factors(0, [1, 1], (4, 1)), **parameters)
    run(name, factors(0, [8, 8], (3, 4)), **parameters)  # ranks beyond the layer's own
    if name not in SUMS and not name.startswith(("dare", "ties")):
        with pytest.raises(ConfigError, match="sum to 0"):
            run(name, factors(0, [2, 2]), [0.0, 0.0], **parameters)
    else:
        close(run(name, factors(0, [2, 2]), [0.0, 0.0], **parameters), np.zeros((OUT, IN)))


@pytest.mark.parametrize(("name", "parameters"), MEANS.items())
def test_a_missing_layer_counts_as_a_zero_delta(name, parameters):
    one, absent = factors(5, [3])[0], Factors(torch.zeros(OUT, 0), torch.zeros(0, IN))
    share = 1.0 if name == "knots-ties" else 0.25  # TIES averages over those that have a sign
    close(run(name, [one, absent], [0.5, 1.5], **parameters), share * deltas([one])[0])


@pytest.mark.parametrize("name", ["procrustes", "quotient", "grassmann_core"])
def test_means_take_no_negative_weights(name):
    with pytest.raises(ConfigError, match=f"{name} is a mean and takes no negative weights: use the method svd or cat"):
        run(name, factors(0, [2, 2]), [1.0, -0.5])


@pytest.mark.parametrize("name", ["product", "svd", "cat", "procrustes", "quotient", "grassmann_core", "knots"])
def test_no_full_product_is_formed(name):
    """It would take 160 GB here."""
    side = 200_000
    given = factors(13, [2, 3], (side, side))
    method = get_adapter_method(name)
    merged = method.merge(FactorBlock("layer", given, [1.0, 1.0]), method.parameters())
    assert merged.shape == (side, side) and merged.rank <= 5 and bool(merged.b.any())


def test_dare_is_seeded_by_names_and_right_in_expectation():
    given, names = factors(6, [2, 2]), ("x", "y")
    first = run("dare_linear_svd", given, names=names, rank="lossless")
    np.testing.assert_array_equal(first, run("dare_linear_svd", given, names=names, rank="lossless"))
    assert np.abs(first - run("dare_linear_svd", given, names=("x", "z"), rank="lossless")).max() > 0.1
    assert np.abs(first - run("dare_linear_svd", given, names=names, rank="lossless", seed=1)).max() > 0.1
    several = [run("dare_linear_svd", given, names=names, rank=7, density=0.5, seed=seed) for seed in range(400)]
    np.testing.assert_allclose(np.mean(several, axis=0), sum(deltas(given)), atol=0.6)


@quick
@given(seeds, st.sampled_from([0.3, 0.8]))
def test_dare_is_the_reference_for_the_masks_drawn(seed, density):
    """The masks are read off each adapter's own merge; what is made of them is computed anew. Of rank 7, nothing is cut."""
    given, weights, names = factors(seed, [3, 2, 3]), [0.5, 0.8, -0.7], ("x", "y", "z")
    kept = []
    for one, name, full in zip(given, names, deltas(given), strict=True):
        alone = run("dare_linear_svd", [one], names=(name,), rank=IN, density=density, seed=seed)
        mask = np.abs(alone) > 0.5 * np.abs(full)
        kept.append(np.where(mask, full / density, 0.0))
        close(alone, kept[-1], 1e-4)
    options = {"names": names, "rank": IN, "density": density, "seed": seed}
    summed = sum(weight * part for weight, part in zip(weights, kept, strict=True))
    close(run("dare_linear_svd", given, weights, **options), summed, 1e-4)
    close(run("dare_ties_svd", given, weights, **options), lora.elect(kept, weights), 1e-4)


def peft_layer(kind, given, weights, rank=None, density=None, **options):
    """The layer with what ``add_weighted_adapter`` of PEFT makes of the factors, as its adapter "merged"."""
    peft = pytest.importorskip("peft")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(IN, OUT, bias=False)

    names = [str(index) for index in range(len(given))]
    configs = [peft.LoraConfig(r=one.rank, lora_alpha=one.rank, target_modules=["layer"], **options) for one in given]
    model = peft.get_peft_model(Net(), configs[0], adapter_name="0")
    for name, config in zip(names[1:], configs[1:], strict=True):
        model.add_adapter(name, config)
    layer = model.base_model.model.layer
    with torch.no_grad():
        for name, one in zip(names, given, strict=True):
            layer.lora_A[name].weight.copy_(one.a)
            layer.lora_B[name].weight.copy_(one.b)
    model.add_weighted_adapter(names, weights, "merged", combination_type=kind, svd_rank=rank, density=density)
    return layer


def peft_merge(*arguments, **options):
    return peft_layer(*arguments, **options).get_delta_weight("merged").detach().numpy()


def test_peft_agrees_where_it_is_right():
    given, weights = factors(7, [2, 3]), [0.5, 0.8]
    close(run("cat", given, weights), peft_merge("cat", given, weights))
    close(run("svd", given, weights), peft_merge("svd", given, weights))
    close(run("svd", given, weights, rank=1), peft_merge("svd", given, weights, rank=1))
    equal = [1.0, 1.0]
    close(run("ties_svd", given, equal, density=0.51), peft_merge("ties_svd", given, equal, density=0.51))
    close(run("dare_linear_svd", given, weights, density=1.0), peft_merge("dare_linear_svd", given, weights, density=1.0))
    close(run("dare_ties_svd", given, equal, density=1.0), peft_merge("dare_ties_svd", given, equal, density=1.0))


@pytest.mark.parametrize("kind", ["ties_svd", "dare_ties_svd"])
def test_peft_scales_by_weights_where_it_averages(kind):
    """Two identical adapters with weights ½ come back halved; their mean is the adapter."""
    one = factors(9, [2])[0]
    close(peft_merge(kind, [one, one], [0.5, 0.5], density=1.0), 0.5 * deltas([one])[0])
    close(run(kind, [one, one], [0.5, 0.5], density=1.0), deltas([one])[0])


def test_peft_elects_without_the_weights():
    """A weight of −1 turns the adapter, and the election with it; PEFT takes the sign from before that."""
    first, second = Factors(torch.ones(OUT, 1), torch.ones(1, IN)), Factors(torch.ones(OUT, 1), 2 * torch.ones(1, IN))
    given, weights, one = [first, second], [1.0, -1.0], np.ones((OUT, IN))
    close(peft_merge("ties_svd", given, weights, density=1.0), -0.5 * one)  # (1 − 2) / 2, though both signs are in it
    close(run("ties_svd", given, weights, density=1.0), -2 * one)  # the stronger vote is −2, and no other agrees


def test_peft_keeps_the_rank_stabilised_scaling():
    """The merged adapter has alpha = r, which rsLoRA divides by √r: √r times too much."""
    given, weights = factors(10, [2, 3]), [0.5, 0.8]
    folded = [Factors(one.b * one.rank**0.5, one.a) for one in given]
    right = run("cat", folded, weights)
    close(peft_merge("cat", given, weights, use_rslora=True), 5**0.5 * right)
    close(right, 0.5 * 2**0.5 * deltas(given)[0] + 0.8 * 3**0.5 * deltas(given)[1])


def test_peft_forgets_dora_magnitudes():
    """They start anew as the norms of the base's rows; right is their mean (``test_dora_magnitudes_are_merged_apart``)."""
    layer = peft_layer("cat", factors(11, [2, 3]), [0.5, 0.8], use_dora=True)
    norms = torch.linalg.vector_norm(layer.get_base_layer().weight, dim=1)
    torch.testing.assert_close(layer.lora_magnitude_vector["merged"].weight, norms)


@pytest.mark.parametrize("kind", ["ties", "dare_linear", "dare_ties"])
def test_peft_merges_factors_entry_by_entry(kind):
    """So other factors of one and the same adapter give another merge, even without any trimming."""
    given = factors(12, [2, 2])
    merged = peft_merge(kind, given, [0.5, 0.5], density=1.0)
    other = peft_merge(kind, [given[0], turned(given[1], 0)], [0.5, 0.5], density=1.0)
    assert np.linalg.norm(other - merged) > 0.1 * np.linalg.norm(merged)


def test_peft_linear_has_cross_terms():
    """Averaging factors gives ¼(B₁ + B₂)(A₁ + A₂)-like products; the weighted sum of the adapters is something else."""
    given = factors(8, [2, 2])
    right = lora.mean(deltas(given), [1, 1])
    crossed = peft_merge("linear", given, [0.5, 0.5])
    b, a = (given[0].b + given[1].b).numpy(), (given[0].a + given[1].a).numpy()
    close(crossed, 0.5 * lora.delta(b, a))
    assert np.linalg.norm(crossed - right) > 0.3 * np.linalg.norm(right)
    # Nor is it a function of the adapters: the same ones in other factors merge into something else.
    other = peft_merge("linear", [given[0], turned(given[1], 0)], [0.5, 0.5])
    assert np.linalg.norm(other - crossed) > 0.3 * np.linalg.norm(crossed)
    close(run("product", given, rank="lossless"), right)


def test_registry_and_parameters():
    methods = find_adapter_methods()
    assert list(methods) == sorted(methods)
    assert {"product", "procrustes", "quotient", "grassmann_core", "knots", "svd", "cat", "ties_svd"} <= set(methods)
    for method in methods.values():
        assert method.__doc__
        for parameter in method.parameters.model_fields.values():
            assert parameter.description
    with pytest.raises(ConfigError, match=r"unknown adapter method 'linear'; .*known are cat"):
        get_adapter_method("linear")
    for wrong in (0, "most", 1.5, None):
        with pytest.raises(ConfigError, match=r"test: 'rank' is .*, but it should be max, lossless, or a whole number"):
            run("product", factors(0, [1]), rank=wrong)


@quick
@given(seeds, st.integers(1, 6))
def test_rank_is_what_was_asked_for(seed, rank):
    given = factors(seed, [2, 3])
    method = get_adapter_method("product")
    assume(rank != 3)
    assert method.merge(FactorBlock("x", given, [1, 1]), method.parameters(rank=rank)).rank == min(rank, 5)
