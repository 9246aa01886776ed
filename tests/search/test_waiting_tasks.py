from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrmerge.search.candidate import scaled_sum
from asrmerge.search.waiting_tasks import Task, WaitingTasks


def candidate(number: int, method: str = "task_arithmetic"):
    return scaled_sum(f"{method} {number}", {"legal": 0.1 * (number + 1)}, method=method)


def tasks_of(*candidates, shards: int = 3) -> list[Task]:
    return [("transcribe", one, shard) for one in candidates for shard in range(shards)]


def shared_out(tasks: list[Task], workers: int) -> list[list[Task]]:
    """What each worker does, where all take the same time for a task."""
    waiting, done = WaitingTasks(tasks), [[] for _ in range(workers)]
    while waiting:
        for worker in range(min(workers, len(waiting))):
            done[worker].append(tasks[waiting.take(worker)])
    return done


def test_each_candidate_is_merged_by_one_worker_where_there_are_as_many() -> None:
    first, second = shared_out(tasks_of(candidate(0), candidate(1)), 2)
    assert first == tasks_of(candidate(0)) and second == tasks_of(candidate(1))


def test_the_last_candidate_is_shared() -> None:
    first, second = shared_out(tasks_of(candidate(0), candidate(1), candidate(2), shards=4), 2)
    assert {task[1].label for task in first} == {"task_arithmetic 0", "task_arithmetic 2"}
    assert {task[1].label for task in second} == {"task_arithmetic 1", "task_arithmetic 2"}
    assert len(first) == len(second) == 6


def test_a_worker_helps_with_what_most_is_left_of() -> None:
    tasks = [*tasks_of(candidate(0), shards=2), *tasks_of(candidate(1), shards=5)]
    waiting = WaitingTasks(tasks)
    assert [waiting.take(worker) for worker in (0, 1, 2)] == [0, 2, 3]


def test_a_worker_stays_with_a_method_while_others_are_untouched() -> None:
    one = [candidate(0, "tsv_m"), candidate(1, "iso_c"), candidate(2, "tsv_m"), candidate(3, "iso_c")]
    first, second = shared_out(tasks_of(*one, shards=2), 2)
    assert {task[1].method for task in first} == {"tsv_m"}
    assert {task[1].method for task in second} == {"iso_c"}


def test_the_same_merge_in_two_looks_is_one() -> None:
    tasks = [("losses", candidate(0), 0), ("losses", candidate(1), 0), ("losses", candidate(0), 1), ("losses", candidate(1), 1)]
    first, second = shared_out(tasks, 2)
    assert {task[1].label for task in first} == {"task_arithmetic 0"} != {task[1].label for task in second}


def test_a_task_that_was_not_done_comes_first_again() -> None:
    waiting = WaitingTasks(tasks_of(candidate(0), shards=2))
    lost = waiting.take("gone")
    waiting.put_back(lost)
    assert [waiting.take("other") for _ in range(2)] == [lost, 1]
    with pytest.raises(IndexError):
        waiting.take("other")


def test_tasks_without_a_candidate_go_in_their_order() -> None:
    assert shared_out([("encode", index) for index in range(4)], 2) == [
        [("encode", 0), ("encode", 2)],
        [("encode", 1), ("encode", 3)],
    ]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["iso_c", "tsv_m"]), st.integers(1, 4)), max_size=8), st.integers(1, 5)
)
def test_every_task_is_done_once(drawn: list[tuple[int, str, int]], workers: int) -> None:
    tasks = [task for number, method, shards in drawn for task in tasks_of(candidate(number, method), shards=shards)]
    done = [task for part in shared_out(tasks, workers) for task in part]
    assert sorted(map(repr, done)) == sorted(map(repr, tasks))
