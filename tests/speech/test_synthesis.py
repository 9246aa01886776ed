"""Synthesis in a child process: a function of the request alone, whatever dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrmerge.errors import SynthesisError
from asrmerge.speech import synthesis
from asrmerge.speech.synthesis import SAMPLING_RATE, SpokenText, Synthesizer
from asrmerge.speech.voices import ACCENTS, BASE_VARIANTS, HELD_OUT_VARIANTS, base_voices, held_out_voices

pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed")

HELLO = SpokenText("hello there my friend", "en-us+m3")
OTHERS = [
    SpokenText("something else altogether", "en+f2", words_per_minute=190, pitch=80, pitch_range=90, word_gap=5),
    SpokenText("and more", "en-gb-x-rp+m7", words_per_minute=120),
]

# A worker that fails where the file that it is given says: before it answers, or in the fork that speaks.
FAULTY = """
import json, os, signal, sys
from pathlib import Path
from asrmerge.speech import espeak_worker

plan = Path({plan!r})
worker = os.getpid()
speak = espeak_worker.Espeak.speak

def faulty(self, request):
    what = json.loads(plan.read_text())
    if request["text"] in what["texts"] and what["times"] > 0:
        plan.write_text(json.dumps({{**what, "times": what["times"] - 1}}))
        os.kill(worker if what["victim"] == "worker" else os.getpid(), signal.SIGKILL)
        os._exit(9)
    return speak(self, request)

espeak_worker.Espeak.speak = faulty
espeak_worker.serve(sys.stdin.buffer, sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def hello() -> np.ndarray:
    with Synthesizer() as synthesizer:
        return synthesizer.speak(HELLO)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``faults(texts, victim, times)``: workers started from now on die ``times`` times when asked for one of ``texts``."""
    plan, script = tmp_path / "plan.json", tmp_path / "faulty.py"
    script.write_text(FAULTY.format(plan=str(plan)))
    start = subprocess.Popen
    monkeypatch.setattr(synthesis.subprocess, "Popen", lambda _, **options: start([sys.executable, str(script)], **options))

    def arrange(texts: list[str], victim: str, times: int) -> None:
        plan.write_text(json.dumps({"texts": texts, "victim": victim, "times": times}))

    return arrange


def test_speech_is_audible_with_at_most_sixty_milliseconds_of_silence_around_it(hello: np.ndarray) -> None:
    assert hello.dtype == np.int16 and 0.6 < len(hello) / SAMPLING_RATE < 2.5
    loud = np.flatnonzero(np.abs(hello.astype(int)) > 0.01 * np.abs(hello.astype(int)).max())
    assert loud[0] <= 0.06 * SAMPLING_RATE and 0 < len(hello) - loud[-1] <= 0.06 * SAMPLING_RATE + 1


def test_the_same_request_gives_the_same_samples_whatever_was_said_before(hello: np.ndarray) -> None:
    with Synthesizer() as synthesizer:
        others = synthesizer.speak_all(OTHERS)
        assert np.array_equal(synthesizer.speak(HELLO), hello)
        again = synthesizer.speak_all([*reversed(OTHERS), HELLO])
    assert all(np.array_equal(one, two) for one, two in zip([*reversed(others), hello], again, strict=True))


def test_the_time_of_day_is_not_heard() -> None:
    """espeak-ng seeds its own noise with the second in which it starts: heard in these words and this voice."""
    noisy = [
        SpokenText("you still thanked his careful sister", "en-us+victor"),
        SpokenText("where did we use the expensive horses", "en-gb-x-rp+f2"),
    ]
    spoken = []
    for _ in range(2):
        with Synthesizer() as synthesizer:
            spoken.append([samples.tobytes() for samples in synthesizer.speak_all(noisy)])
        time.sleep(1.1)
    assert spoken[0] == spoken[1]


@pytest.mark.parametrize(
    "change",
    [{"text": "hello there my fiend"}, {"voice": "en-us+f2"}, {"words_per_minute": 190}, {"pitch": 80}, {"pitch_range": 90},
     {"word_gap": 9}],
)  # fmt: skip
def test_every_setting_is_heard(hello: np.ndarray, change: dict[str, Any]) -> None:
    with Synthesizer() as synthesizer:
        changed = synthesizer.speak(SpokenText(**{**HELLO.__dict__, **change}))
    assert len(changed) and not np.array_equal(changed, hello)


def test_faster_is_shorter(hello: np.ndarray) -> None:
    with Synthesizer() as synthesizer:
        assert len(synthesizer.speak(SpokenText(HELLO.text, HELLO.voice, words_per_minute=220))) < 0.85 * len(hello)


def test_nothing_to_say_is_no_samples() -> None:
    with Synthesizer() as synthesizer:
        assert len(synthesizer.speak(SpokenText("", HELLO.voice))) == 0


@pytest.mark.parametrize("voice", ["nonsense", "en-us+nonsense", "en-us+", "qq+m3", ""])
def test_an_unknown_voice_is_refused_by_name_and_the_child_lives_on(voice: str, hello: np.ndarray) -> None:
    with Synthesizer() as synthesizer:
        with pytest.raises(SynthesisError, match=rf"^'some words': espeak-ng has no voice '{voice.replace('+', '[+]')}'; change"):
            synthesizer.speak(SpokenText("some words", voice))
        assert np.array_equal(synthesizer.speak(HELLO), hello) and synthesizer.restarts == 0


def test_a_killed_child_is_restarted_and_the_answer_is_the_same(hello: np.ndarray) -> None:
    with Synthesizer() as synthesizer:
        synthesizer.speak(OTHERS[0])
        assert synthesizer._process is not None
        os.kill(synthesizer._process.pid, signal.SIGKILL)
        synthesizer._process.wait()
        assert np.array_equal(synthesizer.speak(HELLO), hello) and synthesizer.restarts == 1


def test_a_child_that_hangs_is_killed_and_the_answer_is_the_same(hello: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asrmerge.speech.synthesis._PATIENCE", 5.0)
    with Synthesizer() as synthesizer:
        synthesizer.speak(HELLO)
        assert synthesizer._process is not None
        os.kill(synthesizer._process.pid, signal.SIGSTOP)
        np.testing.assert_array_equal(synthesizer.speak(HELLO), hello)
        assert synthesizer.restarts == 1


@pytest.mark.parametrize("victim", ["worker", "fork"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_death_while_speaking_is_not_heard(faults: Any, hello: np.ndarray, victim: str, times: int) -> None:
    faults([HELLO.text], victim, times)
    with Synthesizer() as synthesizer:
        assert np.array_equal(synthesizer.speak(HELLO), hello) and synthesizer.restarts == times


@pytest.mark.parametrize("victim", ["worker", "fork"])
def test_a_text_that_always_kills_is_named_and_others_go_on(faults: Any, hello: np.ndarray, victim: str) -> None:
    faults(["deadly words"], victim, 1000)
    with Synthesizer() as synthesizer:
        with pytest.raises(SynthesisError, match=r"died or hung 3 times on 'deadly words' \(voice en-us\+m3\); change"):
            synthesizer.speak(SpokenText("deadly words", HELLO.voice))
        assert np.array_equal(synthesizer.speak(HELLO), hello)


def test_closing_ends_the_child() -> None:
    with Synthesizer() as synthesizer:
        synthesizer.speak(HELLO)
        assert synthesizer._process is not None
        child = synthesizer._process
    assert child.poll() is not None
    synthesizer.close()


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "find_spec", lambda name: None)
    with pytest.raises(SynthesisError, match=r"pip install 'asrmerge\[demo\]'"):
        Synthesizer()


def test_the_parent_loads_neither_espeak_nor_the_child_torch() -> None:
    parent = (
        "import sys; from asrmerge.speech.synthesis import *\n"
        "with Synthesizer() as s: s.speak(SpokenText('hello there', 'en-us+m3'))\n"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''\n"
        "assert 'espeakng_loader' not in sys.modules and 'espeak' not in maps"
    )
    child = (
        "import sys; from asrmerge.speech import espeak_worker as worker; worker.Espeak()\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    for code in (parent, child):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_no_speaker_is_in_two_places() -> None:
    groups = [base_voices(), *(held_out_voices(split) for split in ("train", "validation", "test"))]  # type: ignore[arg-type]
    voices = [voice for group in groups for voice in group]
    assert len(set(voices)) == len(voices) == len(ACCENTS) * (len(BASE_VARIANTS) + sum(map(len, HELD_OUT_VARIANTS.values())))
    variants = [voice.partition("+")[2].lower() for group in groups for voice in set(group) if voice.startswith("en+")]
    assert len(set(variants)) == len(variants), "a variant in two groups is the same speaker in another accent"


def test_every_shipped_speaker_exists_and_sounds_different() -> None:
    voices = [*base_voices(), *(voice for split in HELD_OUT_VARIANTS for voice in held_out_voices(split))]
    with Synthesizer() as synthesizer:
        spoken = {synthesizer.speak(SpokenText("the people said", voice)).tobytes() for voice in voices}
    assert len(spoken) == len(voices)
