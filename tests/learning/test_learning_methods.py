"""Learning on tones: losses fall, held-out audio decides, texts stay unheard where they should, seeds repeat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from spoken_tones import fine_tune, tones
from tiny_recognizers import make_models

from asrmerge.errors import ConfigError, LearningError
from asrmerge.learning.audio import split_audio
from asrmerge.learning.method import Learned
from asrmerge.learning.registry import get_learning_method
from asrmerge.learning.session import Session
from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.speech.manifest import Utterance

FAMILIES = ("ctc", "whisper")
METHODS = ("adamerging", "learned_coefficients", "learned_soup")
QUICK = {"steps": 4, "evaluate_every": 2, "batch_seconds": 2, "patience": 9, "normalizer": "none", "learning_rate": 0.05}


@dataclass(frozen=True)
class World:
    base: Path
    experts: Mapping[str, Path]
    audio: Mapping[str, Sequence[Utterance]]

    def session(
        self, *, names: str = "low high", audio: Mapping[str, Sequence[Utterance]] | None = None, seed: int = 0, **start: float
    ) -> Session:
        recognizer: Any = load_recognizer(self.base)
        domains = [
            split_audio(name, corpus, share=0.4, seed=seed, window=recognizer.window_seconds)
            for name, corpus in (audio or self.audio).items()
        ]
        states = {name: load_file(self.experts[name] / "model.safetensors") for name in names.split()}
        return Session(recognizer, states, domains, start=start, seed=seed)


def heard_by(session: Session, utterances: Sequence[Utterance]) -> list[str]:
    """What the live model writes, never an empty text."""
    return [text or "nothing" for text in session.inputs.transcribe(utterances)]


def learn(name: str, session: Session, **parameters: Any) -> Learned:
    method = get_learning_method(name)
    return method.learn(session, method.parameters(**{**QUICK, **parameters}))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, World]:
    """A base, two experts, their domains' audio: by family; ``frozen``, a Whisper whose experts have the base's encoder; and
    ``various``, CTC experts that are random.
    """
    folder = tmp_path_factory.mktemp("audio")
    audio = {"low": tones(folder, "low", 10, 0, words="a be cab"), "high": tones(folder, "high", 10, 1, words="cab dad egg")}
    lessons = {"low": tones(folder, "l", 16, 2, words="a be cab"), "high": tones(folder, "h", 16, 3, words="cab dad egg")}
    made = {}
    for name, family in (("ctc", "ctc"), ("whisper", "whisper"), ("frozen", "whisper")):
        place = tmp_path_factory.mktemp(name)
        base, others = make_models(place, family)
        if name == "ctc":  # tiny CTC models learn to say nothing first; these say various things
            made["various"] = World(base, {"low": others["legal"], "high": others["medical"]}, audio)
        experts = {
            domain: fine_tune(base, place / f"expert {domain}", heard, frozen=name == "frozen")
            for domain, heard in lessons.items()
        }
        made[name] = World(base, experts, audio)
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_a_coefficient_grows_toward_the_expert_that_fits(
    worlds: Mapping[str, World], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = worlds[name].session(names="low", audio={"low": worlds[name].audio["low"]}, low=0.1)
    monkeypatch.setattr(session.inputs, "transcribe", lambda utterances: [""] * len(utterances))  # WERs tie: the loss decides
    learned = learn("learned_coefficients", session, per="model", steps=25, evaluate_every=25)
    assert [look.macro_wer for look in learned.looks] == [1, 1]
    assert learned.losses[-1][1] < 0.8 * learned.losses[0][1]
    assert learned.looks[-1].macro_loss < 0.8 * learned.looks[0].macro_loss
    assert learned.kept == 25 and set(learned.coefficients) == {"*"} and learned.coefficients["*"]["low"] > 0.6


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in FAMILIES for method in ("learned_coefficients", "learned_soup")),
        ("whisper", "adamerging"),
        ("various", "adamerging"),
    ],
)
def test_what_is_made_small_gets_smaller_on_held_out_audio(worlds: Mapping[str, World], name: str, method: str) -> None:
    learned = learn(method, worlds[name].session(low=0.3, high=0.3), steps=16, evaluate_every=8)
    assert [look.step for look in learned.looks] == [0, 8, 16] and [step for step, _ in learned.losses] == list(range(1, 17))
    losses = [loss for _, loss in learned.losses]
    assert sum(losses[-4:]) < sum(losses[:4])
    if (name, method) != ("whisper", "adamerging"):  # it ends up saying nothing, which is held against it
        assert learned.looks[-1].macro_loss < learned.looks[0].macro_loss
    figures = [(look.figure, look.macro_loss) for look in learned.looks]
    assert learned.criterion == "held-out WER" and learned.kept == learned.looks[figures.index(min(figures))].step


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_experts_and_domains_does_not_matter(worlds: Mapping[str, World], method: str) -> None:
    world = worlds["various"]
    turned = {name: world.audio[name] for name in ("high", "low")}
    assert list(turned) != list(world.audio)
    assert learn(method, world.session(low=0.6)) == learn(method, world.session(names="high low", audio=turned, low=0.6))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_learns_the_same_and_another_does_not(worlds: Mapping[str, World], method: str) -> None:
    once, again, other = (learn(method, worlds["various"].session(seed=seed)) for seed in (1, 1, 2))
    assert once == again and once.losses != other.losses


@pytest.mark.parametrize("name", ["various", "whisper"])
def test_adamerging_does_not_look_at_texts(worlds: Mapping[str, World], name: str) -> None:
    """Others change the word errors and so what is kept, nothing else; without any, the entropy decides."""
    session = worlds[name].session()
    session.weights.apply(torch.full((len(session.weights.groups), 2), 0.5))
    wrong = {
        domain.name: [
            replace(one, text=text)
            for one, text in zip(worlds[name].audio[domain.name], heard_by(session, worlds[name].audio[domain.name]), strict=True)
        ]
        for domain in session.domains
    }
    none = {domain: [replace(one, text="") for one in corpus] for domain, corpus in worlds[name].audio.items()}
    told, mistold, untold = (learn("adamerging", worlds[name].session(audio=audio)) for audio in (None, wrong, none))
    assert told.losses == mistold.losses == untold.losses
    assert [look.loss for look in told.looks] == [look.loss for look in mistold.looks] == [look.loss for look in untold.looks]
    assert max(mistold.looks[0].wer.values()) < 0.5 < min(told.looks[0].wer.values()) and untold.looks[0].wer == {}
    assert untold.criterion == "held-out entropy" and untold.looks[0].macro_wer is None
    losses = {look.step: look.macro_loss for look in untold.looks}
    assert untold.kept == min(losses, key=lambda step: losses[step]) and "nats" in untold.summary


def test_the_start_is_kept_where_no_step_betters_it(worlds: Mapping[str, World]) -> None:
    session = worlds["ctc"].session(audio={"low": worlds["ctc"].audio["low"]}, low=1.0, high=0.0)
    learned = learn("learned_coefficients", session, learning_rate=30.0, patience=2, steps=20)
    assert learned.kept == 0 and [look.step for look in learned.looks] == [0, 2, 4]  # and patience ends it
    assert all(row == {"low": 1.0, "high": 0.0} for row in learned.coefficients.values())
    assert learned.summary.endswith("at the start, which is kept: none of 4 steps bettered it")


def test_bounds_and_pull_hold_coefficients(worlds: Mapping[str, World], monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = learn("learned_coefficients", worlds["ctc"].session(), lower=0.48, upper=0.52, learning_rate=0.5)
    assert all(0.48 <= value <= 0.52 for row in bounded.coefficients.values() for value in row.values())
    moved = {}
    for pull in (0.0, 1e4):
        session = worlds["ctc"].session(audio={"low": worlds["ctc"].audio["low"]}, low=0.1, high=0.1)
        monkeypatch.setattr(session.inputs, "transcribe", lambda utterances: [""] * len(utterances))
        learned = learn("learned_coefficients", session, pull=pull, steps=20, evaluate_every=20, per="model")
        moved[pull] = abs(learned.coefficients["*"]["low"] - 0.1)
    assert moved[1e4] < 0.3 * moved[0.0]


@pytest.mark.parametrize("per", ["model", "layer", "group"])
def test_what_shares_a_coefficient(worlds: Mapping[str, World], per: str) -> None:
    learned = learn("learned_coefficients", worlds["whisper"].session(), per=per, steps=1, evaluate_every=1)
    expected = {
        "model": {"*"},
        "layer": {"decoder", "decoder.0", "embedding", "encoder.0", "frontend", "norms"},
        "group": {
            "decoder", "decoder.0.cross", "decoder.0.ffn", "decoder.0.self", "embedding", "encoder.0", "frontend", "norms",
        },
    }  # fmt: skip
    assert set(learned.coefficients) == expected[per]
    assert all(set(row) == {"low", "high"} for row in learned.coefficients.values())


@pytest.mark.parametrize("base", [0.0, 0.25])
def test_shares_of_a_soup_add_up(worlds: Mapping[str, World], base: float) -> None:
    session = worlds["ctc"].session(low=3.0, high=1.0)
    learned = learn("learned_soup", session, base=base, per="layer", learning_rate=0.5)
    for row in learned.coefficients.values():
        assert min(row.values()) >= 0
        assert 0 < sum(row.values()) < 1 if base else sum(row.values()) == pytest.approx(1, abs=2e-6)
    still = learn("learned_soup", worlds["ctc"].session(low=3.0, high=1.0), base=base, learning_rate=1e-9)
    assert still.coefficients["*"] == pytest.approx({"low": 0.75 * (1 - base), "high": 0.25 * (1 - base)}, abs=2e-6)


def test_a_soup_cannot_start_without_an_expert(worlds: Mapping[str, World]) -> None:
    with pytest.raises(ConfigError, match=r"the weight of low is 0.0.*give one above 0"):
        learn("learned_soup", worlds["ctc"].session(low=0.0))


def test_a_shared_encoder_runs_once_and_changes_nothing(worlds: Mapping[str, World], monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("learned_coefficients", "adamerging"):
        session, plain = worlds["frozen"].session(), worlds["frozen"].session()
        plain.inputs.encoder_is_shared = False
        encoded: list[int] = []
        kind = type(session.recognizer)
        with monkeypatch.context() as patched:
            encode = kind.encode
            patched.setattr(kind, "encode", lambda self, audio, e=encode, n=encoded: n.append(len(audio)) or e(self, audio))
            learned = learn(method, session)
            assert session.inputs.encoder_is_shared and sum(encoded) <= 20 and encoded
            encoded.clear()
            other = learn(method, plain)
            assert not encoded
        for (_, one), (_, two) in zip(learned.losses, other.losses, strict=True):
            assert one == pytest.approx(two, rel=2e-3)
    assert not worlds["whisper"].session().inputs.encoder_is_shared


def test_own_transcripts_are_made_anew_only_when_they_are_old(worlds: Mapping[str, World]) -> None:
    counts = {}
    for every in (1, 3, 100):
        session = worlds["frozen"].session(audio={"low": worlds["frozen"].audio["low"][:2]})  # one to learn from
        transcribe, heard = session.inputs.transcribe, []
        session.inputs.transcribe = lambda utterances, t=transcribe, h=heard: h.append(utterances) or t(utterances)
        learn("adamerging", session, hear_every=every, steps=6, evaluate_every=6)
        counts[every] = len(heard) - 2  # the two looks
    assert counts == {1: 6, 3: 2, 100: 1}


def test_a_transcript_that_runs_on_is_cut(worlds: Mapping[str, World]) -> None:
    inputs = worlds["whisper"].session().inputs
    assert inputs.label_text("a cab") == "a cab" and inputs.label_text("") == ""
    cut = inputs.label_text("egg " * 200)
    assert 0 < len(cut.split()) < 30 and inputs.label_text("a" * 500) == ""


def test_saying_nothing_is_not_taken_for_being_sure(worlds: Mapping[str, World], monkeypatch: pytest.MonkeyPatch) -> None:
    audio = {"low": [replace(one, text="") for one in worlds["various"].audio["low"]]}
    session = worlds["various"].session(audio=audio)
    entropy = learn("adamerging", session, steps=1).looks[0].macro_loss
    transcribe = session.inputs.transcribe
    monkeypatch.setattr(session.inputs, "transcribe", lambda utterances: ["", *transcribe(utterances)[1:]])
    held_out = len(session.domains[0].held_out)
    tokens = session.recognizer.model.config.vocab_size
    silent = learn("adamerging", session, steps=1).looks[0].macro_loss
    assert silent == pytest.approx(entropy + math.log(tokens) / held_out)


def test_a_loss_that_is_no_number_is_refused(worlds: Mapping[str, World], monkeypatch: pytest.MonkeyPatch) -> None:
    session = worlds["ctc"].session()
    monkeypatch.setattr(type(session.recognizer), "loss", lambda self, batch: torch.tensor(float("nan")))
    with pytest.raises(LearningError, match=r"after step 0 is nan: early on, check base and experts"):
        learn("learned_coefficients", session)


def test_domains_have_the_same_share_of_every_step(worlds: Mapping[str, World]) -> None:
    session = worlds["ctc"].session(audio={"low": worlds["ctc"].audio["low"], "high": worlds["ctc"].audio["high"][:3]})
    batches = list(session.batches(2.0, 7))
    assert len(batches) == 7 and all([batch[0].domain for batch in step] == ["high", "low"] for step in batches)
    held_out = {one for domain in session.domains for one in domain.held_out}
    assert len(held_out) == 1 + 4 and not any(one in held_out for step in batches for batch in step for one in batch)
