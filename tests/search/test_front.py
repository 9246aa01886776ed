from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoken_world import SpokenWorld, search

from asrmerge.errors import ConfigError
from asrmerge.search.front import front_of, pareto_front, pick
from asrmerge.search.objective import Judgement

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), max_size=12)


@given(ROWS)
def test_the_front_is_what_nothing_dominates(rows):
    front = pareto_front(rows)

    def dominates(one, other):
        return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))

    assert {rows[index] for index in front} == {row for row in rows if not any(dominates(other, row) for other in rows)}
    assert len({rows[index] for index in front}) == len(front)
    assert [rows[index] for index in front] == sorted(rows[index] for index in front)
    assert all(index == rows.index(rows[index]) for index in front)


def test_points_are_picked_by_name(tmp_path):
    result = search(SpokenWorld(), tmp_path / "a.log", strategy="random", methods=["task_arithmetic"], budget={"candidates": 9})
    places = [(0.0, 1.0), (0.9, 0.8), (0.3, 0.2), (1.0, 0.1), (0.31, 0.21), (0.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.5, 0.5)]
    breaking, partial = (5,), (6, 7)  # what is best of all breaks a constraint, or has not heard everything
    trials = tuple(
        replace(
            trial,
            judgement=Judgement(one, (0.1 if trial.number in breaking else -0.1,), (other,)),
            complete=trial.number not in partial,
        )
        for trial, (one, other) in zip(result.trials, places, strict=True)
    )
    made = replace(result, trials=trials)
    assert {name: trial.number for name, trial in front_of(made).items()} == {"front-1": 0, "front-2": 2, "front-3": 3, "knee": 2}
    assert pick(made, "front-3").number == 3
    with pytest.raises(ConfigError, match=r"no point 'front-9'.*front-1"):
        pick(made, "front-9")
    with pytest.raises(ConfigError, match="no candidate is feasible"):
        pick(replace(made, trials=trials[5:8]), "knee")
