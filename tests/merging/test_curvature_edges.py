"""What Fisher merging, UGM, RegMean and MaTS say of a merge and of themselves, and what they refuse."""

from __future__ import annotations

import logging
from dataclasses import replace

import curvature
import numpy as np
import pytest
import torch
from curvature_blocks import ALL, AVERAGING, FISHER, MATS, REGMEAN, UGM, Case, block, run
from sphere_blocks import close

from asrmerge.errors import ConfigError


def test_mats_records_how_far_it_came(caplog):
    random = np.random.default_rng(0)
    inputs = [random.normal(size=(50, 9)) for _ in range(4)]
    squares = [np.float32(one.T @ one) for one in inputs]
    experts = [random.normal(size=(9, 9)).astype(np.float32) for _ in range(2)]
    records = []
    case = Case(experts[0], experts, [1.0, 2.0], [], squares[:2], squares[2:])
    with caplog.at_level(logging.DEBUG, logger="asrmerge"):
        run(MATS, block(case, record=records.append), iterations=4)
    (record,) = records
    assert record["start"] == "average" and record["iterations"] == 4 and 1e-6 < record["residual"] < 1
    assert f"mats: x has the residual {record['residual']:g} after 4 iterations" in caplog.text
    run(MATS, block(case, record=records.append))
    assert records[1]["iterations"] < 100 and records[1]["residual"] <= 1e-6
    bare = Case(experts[0], experts, [1.0, 2.0], [])
    run(MATS, block(bare, record=records.append))
    assert len(records) == 2


def test_regmean_records_a_jitter_that_grew():
    records = []
    gram = np.float32([[1, 1], [1, 1 - 1e-4]])  # an eigenvalue of −5e-5, as no data have; rounding does, a smaller one
    case = Case(np.zeros((1, 2), np.float32), [np.ones((1, 2), np.float32)], [1.0], [], [gram])
    run(REGMEAN, block(case, record=records.append), alpha=1.0)
    assert records == [{"jitter": pytest.approx(1e-3)}]
    run(REGMEAN, block(case, record=records.append), alpha=0.9)
    assert len(records) == 1


def test_fisher_norms_are_those_of_the_whole_model():
    experts = [np.float32([1, 2]), np.float32([3, 5])]
    blocks = [
        block(Case(np.zeros(2, np.float32), experts, [1.0, 2.0], [np.float32(one) for one in fishers]))
        for fishers in ([[3, 1], [1, 2]], [[4, 0], [2, 0]])
    ]
    parameters = FISHER.parameters(normalize=True, floor=0.0)
    norms = FISHER.prepare(lambda: iter(blocks), parameters)
    assert norms == pytest.approx([np.sqrt(26), 3.0])
    assert FISHER.prepare(lambda: iter(blocks), FISHER.parameters()) is None
    expected = curvature.fisher(experts, [1.0, 2.0], [np.float32([3, 1]), np.float32([1, 2])], norms=norms)
    close(FISHER.merge(replace(blocks[0], prepared=norms), parameters), expected)
    assert not np.allclose(run(FISHER, blocks[0], normalize=True, floor=0.0), expected, rtol=1e-3)  # a block on its own
    dead = replace(blocks[0], fishers=[torch.ones(2), torch.zeros(2)], expert_names=["legal", "medical"])
    with pytest.raises(ConfigError, match="fisher cannot normalise by the Fisher information of medical, which is zero"):
        FISHER.prepare(lambda: iter([dead]), parameters)


def test_ugm_says_once_what_the_recipe_leaves_open(caplog):
    case = Case(np.zeros(2, np.float32), [np.ones(2, np.float32)], [1.0], [np.ones(2, np.float32)])
    bare, full = block(case), block(case, base_fisher=torch.ones(2), utterances=[3])
    with caplog.at_level(logging.INFO, logger="asrmerge"):
        UGM.prepare(lambda: iter([bare, bare]), UGM.parameters())
    assert len(caplog.messages) == 2
    assert "no base_statistics, so the base's curvature is 1e-06 everywhere" in caplog.messages[0]
    assert "so each counts as one" in caplog.messages[1]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="asrmerge"):
        UGM.prepare(lambda: iter([full]), UGM.parameters())
        UGM.prepare(lambda: iter([bare]), UGM.parameters(base_scale=0.0, counts=False))
    assert not caplog.messages


def test_what_cannot_be_used_is_refused():
    case = Case(
        np.zeros((2, 2), np.float32),
        [np.ones((2, 2), np.float32)] * 2,
        [1.0, 1.0],
        [np.ones((2, 2), np.float32)] * 2,
        [np.eye(2, dtype=np.float32)] * 2,
        [np.eye(2, dtype=np.float32)] * 2,
    )

    def refused(method, message, made, **parameters):
        with pytest.raises(ConfigError, match=message):
            run(method, made, **parameters)

    for method in AVERAGING:
        for weights in ([1.0, -0.5], [0.0, 0.0]):
            refused(method, f"{method.name} averages with weights of 0 or more, not all 0", block(case, weights=weights))
    refused(UGM, "ugm takes weights of 0 or more", block(case, weights=[1.0, -0.5]))
    refused(UGM, "ugm needs a base", block(case, with_base=False))
    for method in AVERAGING:
        refused(method, "with a scale other than 1 needs a base", block(case, with_base=False), scale=0.5)
    refused(MATS, "mats with the start task_arithmetic needs a base", block(case, with_base=False), start="task_arithmetic")
    for method in (FISHER, UGM):
        refused(method, "needs the experts' Fisher information and has none of x", replace(block(case), fishers=None))
        for wrong in (-1e-9, float("nan"), float("inf")):
            fishers = [torch.ones(2, 2), torch.tensor([[1.0, wrong], [1.0, 1.0]])]
            refused(method, "Fisher information of x has negative entries, NaN or Inf", replace(block(case), fishers=fishers))
    refused(UGM, "Fisher information of the base's x has negative entries", block(case, base_fisher=-torch.ones(2, 2)))
    for wrong in (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), torch.diag(torch.tensor([1.0, -1.0]))):
        for kind in ("grams", "factors"):
            methods = [REGMEAN, MATS] if kind == "grams" else [MATS]
            for method in methods:
                made = replace(block(case), **{kind: [torch.eye(2), wrong]})
                refused(method, "of x hold NaN, Inf or mean squares below zero: compute the statistics again", made)
    indefinite = torch.tensor([[1.0, 5.0], [5.0, 1.0]])
    refused(
        REGMEAN, "the Gram matrices of x have eigenvalues far below zero", replace(block(case), grams=[indefinite] * 2), alpha=1.0
    )


def test_what_they_say_of_themselves():
    assert [getattr(method, "weights_multiply", False) for method in ALL] == [False] * 4
    assert [getattr(method, "weights_share", False) for method in ALL] == [True] * 4
    assert [getattr(method, "elementwise", False) for method in ALL] == [True, True, False, False]
    assert [getattr(method, "affine", False) for method in ALL] == [False, False, True, True]
