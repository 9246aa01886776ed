"""Stages: done once, and again when their inputs change or their outputs are gone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrmerge.pipeline.data import content_key
from asrmerge.pipeline.stages import StageStore
from asrmerge.speech.audio import write_audio
from asrmerge.speech.manifest import Utterance


class Work:
    """Counts how often it is done."""

    def __init__(self, output: Path) -> None:
        self.output, self.times = output, 0

    def __call__(self) -> None:
        self.times += 1
        self.output.write_text(str(self.times))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "output")


def run(folder: Path, work: Work, inputs: Any, stage: str = "merge/uniform") -> bool:
    return StageStore(folder / "stages").run(stage, inputs, [work.output], work)


def test_the_same_inputs_are_done_once(tmp_path: Path, work: Work) -> None:
    assert [run(tmp_path, work, {"a": 1}) for _ in range(3)] == [True, False, False] and work.times == 1


INPUTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2), max_size=2)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(INPUTS, min_size=2, max_size=5))
def test_work_is_done_exactly_when_the_inputs_change(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, course: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("course")
    work = Work(folder / "output")
    done = [run(folder, work, inputs) for inputs in course]
    assert done == [True, *(two != one for one, two in pairwise(course))]


def test_a_missing_output_is_made_again(tmp_path: Path, work: Work) -> None:
    run(tmp_path, work, 1)
    work.output.unlink()
    assert run(tmp_path, work, 1) and work.times == 2


def test_work_that_failed_is_not_done_even_if_an_earlier_output_is_there(tmp_path: Path, work: Work) -> None:
    run(tmp_path, work, 1)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StageStore(tmp_path / "stages").run("merge/uniform", 2, [work.output], fail)
    assert run(tmp_path, work, 1) and work.times == 2


@pytest.mark.parametrize("content", ["", "{", "{}", '{"key": 3}'])
def test_a_torn_key_is_no_key(tmp_path: Path, work: Work, content: str) -> None:
    run(tmp_path, work, 1)
    [file] = (tmp_path / "stages").iterdir()
    file.write_text(content)
    assert run(tmp_path, work, 1)


def test_stages_do_not_know_each_other(tmp_path: Path, work: Work) -> None:
    assert run(tmp_path, work, 1, "a/b") and run(tmp_path, work, 1, "a/c") and not run(tmp_path, work, 1, "a/b")


def test_the_key_of_audio_changes_with_text_speaker_order_and_file_but_not_with_a_second_look(tmp_path: Path) -> None:
    def utterances(**changes: Any) -> tuple[Utterance, ...]:
        first = {"identifier": "1", "audio": tmp_path / "1.wav", "duration": 1.0, "text": "a", "speaker": "s", **changes}
        return (Utterance(**first), Utterance("2", tmp_path / "2.wav", 1.0, "b"))

    for number in (1, 2):
        write_audio(tmp_path / f"{number}.wav", [0.1 * number] * 100)  # type: ignore[arg-type]
    same = content_key(utterances())
    assert content_key(utterances()) == same
    changed = [content_key(utterances(text="c")), content_key(utterances(speaker=None)), content_key(utterances()[::-1])]
    write_audio(tmp_path / "1.wav", [0.3] * 100)  # type: ignore[arg-type]
    changed.append(content_key(utterances()))
    assert len({same, *changed}) == 5
