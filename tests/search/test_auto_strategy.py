"""The strategy of the project, on made-up domains whose best merge is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spoken_world import COUNT, NAMES, WORDS, SpokenWorld, search, truth

from asrmerge.errors import ConfigError, SearchError
from asrmerge.search.blocks import GROWING, plan_audio
from asrmerge.search.candidate import Candidate
from asrmerge.search.result import SearchResult
from asrmerge.search.session import Leader

OPTIMUM = 0.12


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return search(SpokenWorld(), tmp_path_factory.mktemp("auto") / "journal.log")


def test_it_comes_near_the_optimum_within_ten_full_evaluations(found: SearchResult) -> None:
    assert found.spent.utterances <= 10 * COUNT * len(NAMES)
    assert found.best.candidate.method == "iso_c" and found.best.complete
    assert truth(found.best.candidate) < OPTIMUM + 0.02
    uniform = next(trial for trial in found.trials if trial.candidate.kind == "uniform")
    assert truth(uniform.candidate) > OPTIMUM + 0.04  # so that there was something to find


def test_everything_that_was_dropped_is_kept_with_its_reason(found: SearchResult) -> None:
    kinds = {trial.candidate.kind for trial in found.trials}
    assert {"base", "uniform", "expert", "search"} <= kinds
    dropped = [trial for trial in found.trials if not trial.complete]
    assert dropped and all(trial.heard < COUNT * len(NAMES) for trial in dropped)
    assert all(trial.note.startswith(("beaten by", "left behind")) for trial in dropped)
    assert len({trial.candidate.key() for trial in found.trials}) == len(found.trials)
    assert all(found.best.rank < trial.rank for trial in found.trials if trial is not found.best)


def test_it_says_how_the_loss_ranked_and_what_the_best_was_compared_with(found: SearchResult) -> None:
    assert found.ranking is not None and found.ranking.correlation > 0.7 and found.ranking.utterances == found.spent.losses > 0
    compared = {one.other: one for one in found.confirmed}
    assert {"base", "uniform average", *(f"expert {name}" for name in NAMES)} <= set(compared)
    assert all(compared[name].better for name in ("base", "uniform average"))
    assert found.beats == {"base": True, "uniform": True, "experts": True}
    assert found.optimism is not None and 0 <= found.optimism.value < 0.02


def test_what_was_dropped_is_measured_with_the_best_on_what_both_have_heard(found: SearchResult) -> None:
    world = SpokenWorld()
    plan = plan_audio(world.audio, seed=0, fractions=GROWING)
    hear = world.hear(plan)
    sizes = np.cumsum([plan.size(look) for look in range(plan.looks)]).tolist()

    def figure(candidate: Candidate, heard: int) -> float:
        """All domains are of one size here, and all utterances of one length."""
        outcomes = hear([(candidate, look) for look in range(sizes.index(heard) + 1)])
        return sum(one.errors for outcome in outcomes for name in NAMES for one in outcome.scores[name]) / (WORDS * heard)

    best = found.best
    dropped = [trial for trial in found.trials if not trial.complete]
    assert dropped and all(trial.behind is None for trial in found.trials if trial.complete)
    plain, paired = [], []
    for trial in dropped:
        expected = figure(trial.candidate, trial.heard) - figure(best.candidate, trial.heard)
        assert trial.behind == pytest.approx(expected, abs=1e-6)
        truly = figure(trial.candidate, sizes[-1]) - best.objective
        plain.append(abs(trial.objective - best.objective - truly))
        paired.append(abs(trial.behind - truly))
    assert np.mean(paired) < 0.8 * np.mean(plain)  # the better guess of what it would have been on all of the audio


def test_the_result_goes_through_its_file(found: SearchResult, tmp_path: Path) -> None:
    found.write(tmp_path / "trials.json")
    again = SearchResult.read(tmp_path / "trials.json")
    again.write(tmp_path / "again.json")
    assert again == found and (tmp_path / "again.json").read_bytes() == (tmp_path / "trials.json").read_bytes()


@pytest.mark.parametrize("stop", [3, 15])
def test_an_interrupted_course_ends_the_same(found: SearchResult, stop: int, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(SpokenWorld(stop=stop), tmp_path / "journal.log")
    assert search(SpokenWorld(), tmp_path / "journal.log") == found
    assert search(SpokenWorld(), tmp_path / "journal.log") == found


@pytest.mark.parametrize(("constraints", "seed"), [((), 0), (("general.wer <= 1.2 * base",), 0), (("general.wer <= 0.215",), 1)])
def test_the_best_so_far_never_gets_worse(constraints: tuple[str, ...], seed: int, tmp_path: Path) -> None:
    leaders: list[Leader] = []
    world = SpokenWorld(domains=(*NAMES, "general"))
    result = search(world, tmp_path / "journal.log", constraints=constraints, seed=seed, on_leader=leaders.append)
    whole = [one for one in leaders if one.heard == "all of the audio"]
    assert leaders[-1] == whole[-1] and whole[-1].candidate == result.best.candidate
    assert "base" not in {one.candidate.kind for one in leaders}
    assert [one.objective for one in whole] == sorted((one.objective for one in whole), reverse=True)
    assert result.best.feasible and (seed == 0 or any(trial.complete and not trial.feasible for trial in result.trials))


@pytest.mark.parametrize(
    ("count", "options", "looks"), [(COUNT, {}, {0}), (COUNT // 2, {}, {0, 1}), (COUNT, {"loss_looks": 3}, {0, 1, 2})]
)
def test_losses_are_computed_on_as_much_as_ranks(count: int, options: dict[str, int], looks: set[int], tmp_path: Path) -> None:
    world = SpokenWorld(count=count)
    found = search(world, tmp_path / "journal.log", strategy={"name": "auto", **options})
    assert world.looked == looks
    assert truth(found.best.candidate) < OPTIMUM + 0.02


def test_without_losses_the_first_block_takes_their_place(tmp_path: Path) -> None:
    result = search(SpokenWorld(), tmp_path / "journal.log", losses=False, budget={"utterances": 20 * COUNT * len(NAMES)})
    assert result.ranking is None and result.spent.losses == 0
    assert result.best.candidate.method == "iso_c" and truth(result.best.candidate) < OPTIMUM + 0.03


@pytest.mark.parametrize("share", [1.5, 3])
def test_a_small_budget_is_kept_and_still_gives_a_whole_best(share: float, tmp_path: Path) -> None:
    total = COUNT * len(NAMES)
    result = search(SpokenWorld(), tmp_path / "journal.log", budget={"utterances": round(share * total)})
    assert result.spent.utterances <= share * total + total / 8 * 5  # the base, the average and the experts hear a block anyway
    assert result.best.complete


def test_a_constraint_holds_for_the_best(tmp_path: Path) -> None:
    world = SpokenWorld(domains=(*NAMES, "general"))
    free = search(world, tmp_path / "free.log")
    bound = search(world, tmp_path / "bound.log", constraints=["general.wer <= 0.9 * base"])
    assert bound.best.feasible and not any(trial.complete and trial.rank < bound.best.rank for trial in bound.trials)
    base = next(trial for trial in bound.trials if trial.candidate.kind == "base")
    assert base.complete and bound.best.counts["general"].wer <= 0.9 * base.counts["general"].wer
    assert free.best.objective <= bound.best.objective + 1e-9


def test_a_candidate_that_fails_is_a_failed_trial(tmp_path: Path) -> None:
    result = search(SpokenWorld(failing=["expert medical"]), tmp_path / "journal.log")
    failed = [trial for trial in result.trials if trial.error]
    assert [trial.candidate.label for trial in failed] == ["expert medical"] and failed[0].error == "the weights hold NaN"
    assert result.best.candidate.method == "iso_c"


def test_a_limit_relative_to_what_failed_ends_the_search(tmp_path: Path) -> None:
    world = SpokenWorld(domains=(*NAMES, "general"), failing=["base"])
    with pytest.raises(SearchError, match=r"base could not be evaluated, so what is relative to it.*: the weights hold NaN"):
        search(world, tmp_path / "journal.log", constraints=["general.wer <= 0.9 * base"])


def test_seeds_give_other_courses(found: SearchResult, tmp_path: Path) -> None:
    other = search(SpokenWorld(), tmp_path / "journal.log", seed=1)
    assert [trial.candidate.key() for trial in other.trials] != [trial.candidate.key() for trial in found.trials]
    assert truth(other.best.candidate) < OPTIMUM + 0.02


def test_a_budget_for_one_alone_goes_to_the_best_of_the_first_block(tmp_path):
    result = search(SpokenWorld(), tmp_path / "a.log", budget={"utterances": 370})
    assert [trial.candidate.label for trial in result.trials if trial.complete] == ["uniform average"]
    assert result.best.candidate.label == "uniform average" and result.spent.utterances == 360


@pytest.mark.parametrize(("constraints", "needed"), [((), 360), (("legal.wer <= 2 * base",), 570)])
def test_a_budget_that_no_merge_can_use_is_refused(tmp_path, constraints, needed):
    world = SpokenWorld()
    with pytest.raises(ConfigError, match=f"no merge could hear all of the validation audio: give at least {needed}"):
        search(world, tmp_path / "a.log", budget={"utterances": needed - 1}, constraints=constraints)
    assert not world.asked
    assert search(world, tmp_path / "b.log", budget={"utterances": needed}, constraints=constraints).best.complete
