from __future__ import annotations

import pytest

from asrmerge.errors import ConfigError
from asrmerge.search import Candidate, fixed_candidates

NAMES = ["legal", "medical"]


def test_fixed_candidates_are_base_uniform_experts_and_curve():
    candidates = fixed_candidates(NAMES, [0.3, 0.7])
    assert [candidate.label for candidate in candidates] == [
        "base", "uniform average", "expert legal", "expert medical", "λ = 0.3", "λ = 0.7",
    ]  # fmt: skip
    assert [tuple(candidate.coefficients().values()) for candidate in candidates] == [
        (0, 0), (0.5, 0.5), (1, 0), (0, 1), (0.3, 0.3), (0.7, 0.7),
    ]  # fmt: skip
    assert [candidate.tuned for candidate in candidates] == [False] * 4 + [True] * 2


def test_points_of_the_curve_that_are_other_candidates_are_left_out():
    labels = [candidate.label for candidate in fixed_candidates(NAMES, [0.0, 0.5, 0.5, 1.0])]
    assert labels == ["base", "uniform average", "expert legal", "expert medical", "λ = 1"]
    assert len(fixed_candidates(["only"], [1.0])) == 3


def test_three_experts_share_their_third_with_the_curve():
    labels = [candidate.label for candidate in fixed_candidates(["a", "b", "c"], [1 / 3])]
    assert labels == ["base", "uniform average", "expert a", "expert b", "expert c"]


def test_json_gives_a_candidate_back():
    for candidate in fixed_candidates(NAMES):
        assert Candidate.from_json(candidate.to_json()) == candidate


def test_recipe_has_method_models_and_weights():
    recipe = fixed_candidates(NAMES)[1].recipe(base="folder/base", models={"legal": "l", "medical": "m"})
    assert (recipe.method, recipe.base, recipe.parameters) == ("linear", "folder/base", {"normalize": True})
    assert [(one.name, one.model, one.weight) for one in recipe.experts] == [("legal", "l", 0.5), ("medical", "m", 0.5)]
    recipe.method_parameters()


def test_other_methods_have_no_coefficients_but_a_key():
    candidate = Candidate("t", "ties", {"legal": 1.0}, {"density": 0.2})
    assert candidate.key() != Candidate("t", "ties", {"legal": 1.0}, {"density": 0.3}).key()
    with pytest.raises(ConfigError, match="no coefficients"):
        candidate.coefficients()
