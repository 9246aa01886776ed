from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from synthetic import World

from asrmerge.errors import ConfigError, SearchError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search import Candidate, CandidateError, SearchResult, Trial, search_coefficients

WORLD = World(experts=3)
GENERAL = "general.wer <= 1.5 * base"


def search(storage: Path, evaluate: Any = WORLD, **changes: Any) -> SearchResult:
    arguments: dict[str, Any] = {
        "experts": WORLD.names, "targets": WORLD.names, "watched": ["general"], "constraints": [GENERAL], "trials": 20, "seed": 3,
        "curve": (0.2, 0.6), "key": "k",
    }  # fmt: skip
    return search_coefficients(evaluate, storage=storage, **arguments | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """The uninterrupted search."""
    return search(tmp_path_factory.mktemp("whole") / "journal.log")


class Counting:
    """The world, with a count of what is asked of it, and an end at the n-th question."""

    def __init__(self, stop: int = 1000, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._stop, self._error = stop, error

    def __call__(self, candidate: Candidate) -> Mapping[str, ErrorCounts]:
        if len(self.asked) == self._stop:
            raise self._error("stopped here")
        self.asked.append(candidate.key())
        return WORLD(candidate)


def test_fixed_candidates_come_first_and_nothing_is_tried_twice(whole: SearchResult):
    kinds = [trial.candidate.kind for trial in whole.trials]
    assert kinds == ["base", "uniform", *["expert"] * 3, *["curve"] * 2, "soup", *["search"] * 12]
    assert len({trial.candidate.key() for trial in whole.trials}) == 20
    assert [trial.number for trial in whole.trials] == list(range(20))
    assert [(point.scale, point.trial) for point in whole.curve] == [(0.0, 0), (0.2, 5), (pytest.approx(1 / 3), 1), (0.6, 6)]


def test_the_greedy_soup_is_in_the_race(whole: SearchResult):
    best, second, third = sorted(whole.trials[2:5], key=lambda trial: trial.rank)
    names = [max(trial.candidate.weights, key=trial.candidate.weights.get) for trial in (best, second, third)]
    soup = whole.trials[7]
    assert soup.candidate.coefficients() == {name: 0.5 * (name in names[:2]) for name in WORLD.names}
    # Better than the best expert: kept. With the third it is the uniform average, which is not evaluated twice.
    assert soup.rank < best.rank


def test_the_greedy_soup_goes_round_a_failed_expert(tmp_path: Path):
    def evaluate(candidate: Candidate) -> Mapping[str, ErrorCounts]:
        if candidate.label == "expert d0":
            raise CandidateError("NaN")
        return WORLD(candidate)

    soups = [trial for trial in search(tmp_path / "journal.log", evaluate).trials if trial.candidate.kind == "soup"]
    assert [trial.candidate.weights["d0"] for trial in soups] == [0.0]


def test_the_constraint_holds_for_the_best(whole: SearchResult):
    assert whole.best.feasible
    assert whole.best.counts["general"].wer <= 1.5 * whole.trials[0].counts["general"].wer
    infeasible = [trial for trial in whole.trials if not trial.feasible]
    assert infeasible and all(trial.rank > whole.best.rank for trial in infeasible)
    free = [trial.objective for trial in whole.trials if trial.feasible]
    assert whole.best.objective == min(free)


@pytest.mark.parametrize("stop", [0, 1, 5, 7, 12, 17])
def test_an_interrupted_search_ends_with_the_same_bytes(stop: int, whole: SearchResult, tmp_path: Path):
    first, second = Counting(stop), Counting()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "journal.log", first)
    seen: list[Trial] = []
    again = search(tmp_path / "journal.log", second, on_trial=seen.append)
    assert not set(first.asked) & set(second.asked)
    assert len(first.asked) + len(second.asked) == 20
    assert seen == list(again.trials)
    again.write(tmp_path / "again.json")
    whole.write(tmp_path / "whole.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


PROGRAM = """
import os, sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
import test_search_study as program

def slowly(candidate):
    print(candidate.label, flush=True)
    time.sleep(0.05)
    return program.WORLD(candidate)

program.search(Path(sys.argv[1]), slowly)
"""


@pytest.mark.parametrize("lines", [1, 10])
def test_a_search_killed_outright_ends_with_the_same_result(lines: int, whole: SearchResult, tmp_path: Path):
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", program, str(tmp_path / "journal.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(0.03)
        os.kill(process.pid, signal.SIGKILL)
    counting = Counting()
    assert search(tmp_path / "journal.log", counting) == whole
    assert len(counting.asked) in (20 - lines, 20 - lines + 1)


def test_a_torn_last_line_is_cut_off(whole: SearchResult, tmp_path: Path):
    journal = tmp_path / "journal.log"
    search(journal, trials=12)
    content = journal.read_bytes()
    journal.write_bytes(content[:-40])
    counting = Counting()
    assert search(journal, counting) == whole
    assert len(counting.asked) == 9
    journal.write_bytes(b'{"op_c')
    assert search(journal) == whole


def test_a_longer_search_goes_on_and_a_shorter_one_looks_back(whole: SearchResult, tmp_path: Path):
    short = search(tmp_path / "journal.log", trials=10)
    assert search(tmp_path / "journal.log") == whole
    assert search(tmp_path / "journal.log", Counting(0), trials=10) == short


def test_fixed_candidates_are_evaluated_whatever_the_budget(tmp_path: Path):
    assert len(search(tmp_path / "journal.log", trials=1).trials) == 7


def test_seeds_differ(whole: SearchResult, tmp_path: Path):
    other = search(tmp_path / "journal.log", seed=4)
    assert other.trials[:14] == whole.trials[:14]
    assert other.trials[14:] != whole.trials[14:]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"experts": ["d0", "d1"]}, "other experts"),
        ({"targets": ["d0", "d1"]}, "other targets"),
        ({"watched": ["general", "d9"], "constraints": []}, "other watched domains"),
        ({"constraints": ["general.wer <= 0.3"]}, "other constraints"),
        ({"bounds": (0.0, 1.5)}, "other space"),
        ({"curve": (0.5,)}, "other curve"),
        ({"seed": 4}, "other seed"),
        ({"key": "another"}, "other models, audio or settings"),
    ],
)
def test_the_storage_of_another_search_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path):
    journal = tmp_path / "journal.log"
    search(journal, trials=1)
    before = journal.read_bytes()
    with pytest.raises(SearchError, match=rf"journal\.log cannot be continued, .*{reason}.*: delete the file, or"):
        search(journal, **changes)
    assert journal.read_bytes() == before


def test_other_programs_files_are_refused_and_left_alone(tmp_path: Path):
    text = tmp_path / "notes.txt"
    text.write_text("no journal")
    with pytest.raises(SearchError, match="no journal of a search"):
        search(text)
    assert text.read_text() == "no journal"

    journal = tmp_path / "journal.log"
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="theirs")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(SearchError, match="another program"):
        search(journal)


def test_one_search_at_a_time(tmp_path: Path):
    def nested(candidate: Candidate) -> Mapping[str, ErrorCounts]:
        return search(tmp_path / "journal.log").trials[0].counts

    with pytest.raises(SearchError, match="in use by another search"):
        search(tmp_path / "journal.log", nested)
    search(tmp_path / "journal.log", trials=1)


def test_a_failed_candidate_fails_its_trial_only(tmp_path: Path):
    asked: list[str] = []

    def sometimes(candidate: Candidate) -> Mapping[str, ErrorCounts]:
        asked.append(candidate.label)
        if candidate.label in ("expert d1", "search 9", "search 10"):
            raise CandidateError("the weights hold NaN")
        return WORLD(candidate)

    result = search(tmp_path / "journal.log", sometimes)
    failed = [trial.number for trial in result.trials if trial.error]
    assert failed == [3, 9, 10]
    assert result.trials[3].error == "the weights hold NaN"
    assert (result.trials[3].objective, result.trials[3].feasible) == (None, False)
    assert len({trial.candidate.key() for trial in result.trials}) == 20
    assert len(asked) == 20
    assert search(tmp_path / "journal.log", sometimes) == result
    assert len(asked) == 20
    result.write(tmp_path / "trials.json")
    assert SearchResult.read(tmp_path / "trials.json") == result


def test_other_errors_end_the_search_and_are_no_trial(whole: SearchResult, tmp_path: Path):
    with pytest.raises(SearchError, match="stopped here"):
        search(tmp_path / "journal.log", Counting(4, SearchError))
    counting = Counting()
    assert search(tmp_path / "journal.log", counting) == whole
    assert len(counting.asked) == 16


def test_a_failed_base_leaves_a_relative_constraint_without_limit(tmp_path: Path):
    with pytest.raises(SearchError, match=r"the base could not be evaluated.*: stopped here"):
        search(tmp_path / "a.log", Counting(0, CandidateError))
    with pytest.raises(SearchError, match="no candidate could be evaluated; the first failed because stopped here"):
        search(tmp_path / "b.log", Counting(0, CandidateError), constraints=[])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bounds": (0.0, float("inf"))}, "two finite numbers"),
        ({"bounds": (1.0, 1.0)}, "two finite numbers"),
        ({"curve": (float("nan"),)}, "finite numbers"),
        ({"experts": []}, "at least one expert"),
        ({"experts": ["d0", "d0"]}, "'d0' is named twice"),
        ({"seed": -1}, "from 0 on"),
        ({"constraints": ["gen.wer <= 1"]}, "known are d0, d1, d2, general"),
    ],
)
def test_arguments_that_cannot_be_used_leave_no_file(changes: dict[str, Any], reason: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=reason):
        search(tmp_path / "journal.log", **changes)
    assert not list(tmp_path.iterdir())


def test_json_holds_what_a_report_draws(whole: SearchResult, tmp_path: Path):
    whole.write(tmp_path / "trials.json")
    content = json.loads((tmp_path / "trials.json").read_text())
    assert content["constraints"] == [GENERAL]
    assert content["seed"] == 3
    assert content["best"] == whole.best.number
    assert content["beats"] == {"base": True, "uniform": True, "experts": True}
    assert content["curve"][0] == {"scale": 0.0, "trial": 0, "objective": whole.trials[0].objective}
    assert set(content["trials"][0]["wer"]) == {*WORLD.names, "general"}
    best = [content["trials"][number] for number in content["best_so_far"]]
    assert best[-1]["number"] == whole.best.number
    assert SearchResult.read(tmp_path / "trials.json") == whole


def test_a_result_that_is_none_is_refused(tmp_path: Path):
    (tmp_path / "trials.json").write_text("[]")
    with pytest.raises(SearchError, match="no result of a search"):
        SearchResult.read(tmp_path / "trials.json")


def test_the_result_says_when_no_merge_helps(tmp_path: Path):
    def harmful(candidate: Candidate) -> Mapping[str, ErrorCounts]:
        errors = round(100 + 100 * sum(abs(value) for value in candidate.coefficients().values()))
        return {name: ErrorCounts(1000, errors) for name in [*WORLD.names, "general"]}

    result = search(tmp_path / "journal.log", harmful)
    assert result.best.candidate.label == "base"
    assert result.beats == {"base": False, "uniform": True, "experts": True}


def test_without_any_feasible_candidate_the_nearest_is_best(tmp_path: Path):
    result = search(tmp_path / "journal.log", constraints=["general.wer <= 0.01"])
    assert not result.best.feasible
    assert result.best.judgement.excess == min(trial.judgement.excess for trial in result.trials)


def test_one_expert_and_a_space_that_runs_out(tmp_path: Path):
    world = World(experts=1)
    result = search_coefficients(
        world, experts=["d0"], targets=["d0"], trials=30, bounds=(0.0, 0.01), curve=(), storage=tmp_path / "journal.log"
    )
    assert 12 <= len(result.trials) <= 13  # 0 … 0.01 in steps of 0.001, the expert, and perhaps not all


def test_the_search_beats_uniform_curve_and_experts(tmp_path: Path):
    """By what endless validation audio would say, pooled over worlds; the figures of more are those of benchmark_proposals.py."""
    left = start = 0.0
    for number, (seed, experts) in enumerate(itertools.product(range(4), (2, 4))):
        world = World(seed=seed, experts=experts, quadratic=bool(seed % 2))
        storage = tmp_path / f"{number}.log"
        result = search_coefficients(world, experts=world.names, targets=world.names, trials=40, storage=storage)
        fixed = [trial for trial in result.trials if trial.candidate.kind not in ("soup", "search")]
        left += world.truth(result.best.candidate) - world.optimum()
        start += world.truth(min(fixed, key=lambda trial: trial.rank).candidate) - world.optimum()
    assert left < 0.5 * start


def test_no_warnings_and_no_lock_is_left_to_wait_for(tmp_path: Path):
    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(tmp_path / "journal.log", trials=14)
    assert optuna.logging.get_verbosity() == verbosity
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.log", "journal.log.lock"]


class Methods:
    """The world, in which merges by some methods make more or fewer errors."""

    def __init__(self, **factors: float) -> None:
        self._factors = factors

    def __call__(self, candidate: Candidate) -> Mapping[str, ErrorCounts]:
        if candidate.method in ("linear", "task_arithmetic"):
            return WORLD(candidate)
        counts = WORLD(Candidate("", "task_arithmetic", candidate.weights))
        factor = self._factors[candidate.method]
        return {name: ErrorCounts(words=one.words, substitutions=int(factor * one.errors)) for name, one in counts.items()}


def test_the_best_of_several_methods_is_the_one_that_is_searched(tmp_path: Path):
    methods = ("task_arithmetic", "tsv_m", "iso_c")
    world = Methods(tsv_m=0.9, iso_c=0.8)
    result = search(tmp_path / "journal.log", world, methods=methods, trials=24)
    kinds = [(trial.candidate.kind, trial.candidate.method) for trial in result.trials]
    assert kinds[5:11] == [("curve", method) for method in methods for _ in range(2)]
    assert kinds[11:] == [("soup", "linear")] + [("search", "iso_c")] * 12
    assert len({trial.candidate.key() for trial in result.trials}) == 24
    best = result.best.candidate
    assert best.method == "iso_c" and best.kind == "search"
    assert best.recipe(base="b", models=dict.fromkeys(WORLD.names, "m")).method == "iso_c"
    assert [point.trial for point in result.curve] == [0, 5, 1, 6]
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "again.log", _stopping(world, 15), methods=methods, trials=24)
    assert search(tmp_path / "again.log", world, methods=methods, trials=24) == result
    plain = search(tmp_path / "plain.log", Methods(tsv_m=1.1, iso_c=1.2), methods=methods, trials=24)
    assert {trial.candidate.method for trial in plain.trials if trial.candidate.kind == "search"} == {"task_arithmetic"}


def _stopping(evaluate: Any, stop: int) -> Any:
    asked = []

    def stopping(candidate: Candidate) -> Mapping[str, ErrorCounts]:
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append(candidate)
        return evaluate(candidate)

    return stopping


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (("task_arithmetic", "iso"), "unknown merge method 'iso'; did you mean 'iso_c'"),
        (("karcher",), "how much of each expert there is, which karcher does not say; choose among .*task_arithmetic"),
        ((), "the search has no methods: give one or several of .*iso_c"),
    ],
)
def test_methods_whose_weights_cannot_be_searched(methods: tuple[str, ...], message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        search(tmp_path / "journal.log", methods=methods)
