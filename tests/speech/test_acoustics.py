"""Acoustic conditions: the figures that they promise, the same for the same seed, refusals with a remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.errors import ConfigError
from asrmerge.speech.acoustics import EFFECTS, SAMPLING_RATE, Scene, apply_effects

SPEECH = (
    np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLING_RATE) * np.abs(np.sin(np.linspace(0, 20, 2 * SAMPLING_RATE)))
).astype(np.float32)
TALKERS = tuple(np.random.default_rng(seed).normal(0, 0.2, 9000 + seed).astype(np.float32) for seed in range(4))
CONDITIONS: dict[str, dict[str, Any]] = {
    "noise": {"effect": "noise", "colour": "pink", "snr": [10, 20]},
    "babble": {"effect": "babble", "snr": [10, 20], "talkers": [2, 4]},
    "hum": {"effect": "hum", "frequency": [50, 60], "snr": [10, 20]},
    "reverberation": {"effect": "reverberation", "decay": [0.2, 0.5], "distance": [0.2, 0.4]},
    "telephone": {"effect": "telephone"},
    "level": {"effect": "level", "decibel": [-6, 3]},
}


def scene(seed: int = 0) -> Scene:
    return Scene(np.random.default_rng(seed), TALKERS)


def apply(*effects: Mapping[str, Any], seed: int = 0, samples: np.ndarray = SPEECH) -> np.ndarray:
    return apply_effects(samples, effects, scene(seed))


def power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def band_power(samples: np.ndarray, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
    return float(spectrum[(frequency >= low) & (frequency < high)].sum())


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(
        [
            *({"effect": "noise", "colour": colour} for colour in ("white", "pink", "brown")),
            {"effect": "babble", "talkers": [1, 4]},
            {"effect": "hum", "frequency": [50, 60]},
        ]
    ),
    st.floats(-5, 40),
    st.integers(0, 2**32),
)
def test_the_signal_to_noise_ratio_is_what_was_asked_for(effect: dict[str, Any], snr: float, seed: int) -> None:
    disturbed = apply({**effect, "snr": [snr, snr]}, seed=seed)
    achieved = 10 * np.log10(power(SPEECH) / power(disturbed.astype(np.float64) - SPEECH))
    assert achieved == pytest.approx(snr, abs=0.1)


def test_ratios_are_drawn_from_the_whole_range() -> None:
    ratios = []
    for seed in range(40):
        disturbed = apply({"effect": "noise", "colour": "white", "snr": [10, 20]}, seed=seed)
        ratios.append(10 * np.log10(power(SPEECH) / power(disturbed - SPEECH)))
    assert 9.9 < min(ratios) < 12 and 18 < max(ratios) < 20.1


def test_colours_fall_with_frequency_as_promised() -> None:
    silence = np.full(SAMPLING_RATE * 4, 1e-6, dtype=np.float32)
    silence[0] = 1.0
    slopes = {}
    for colour in ("white", "pink", "brown"):
        noise = apply({"effect": "noise", "colour": colour, "snr": [0, 0]}, samples=silence) - silence
        # Power per octave: level for f^-½ in amplitude, doubling for white, halving for brown.
        slopes[colour] = 10 * np.log10(band_power(noise, 2000, 4000) / band_power(noise, 500, 1000)) / 2
    assert slopes == pytest.approx({"white": 3.0, "pink": 0.0, "brown": -3.0}, abs=0.5)


def test_the_telephone_lets_through_its_band_only() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * SAMPLING_RATE).astype(np.float32)
    called = apply(CONDITIONS["telephone"], samples=noise)
    whole = {"inside": (400, 3000), "below": (0, 150), "above": (5000, 8000)}
    kept = {name: band_power(called, *band) / band_power(noise, *band) for name, band in whole.items()}
    assert kept["inside"] == pytest.approx(1.0, abs=0.1)
    # What is left there is the noise of eight-bit companding, some 38 dB below the signal.
    assert kept["below"] < 1e-2 and kept["above"] < 1e-2
    outside = band_power(called, 0, 300) + band_power(called, 3400, 8001)
    assert outside / band_power(called, 300, 3400) < 0.1  # white noise: what the filter's slopes leave


@pytest.mark.parametrize(("hertz", "loss"), [(100, 38), (150, 24), (1000, 0), (3000, 0), (5000, 24), (7000, 48)])
def test_tones_outside_the_telephone_band_are_lost(hertz: float, loss: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(SAMPLING_RATE) / SAMPLING_RATE).astype(np.float32)
    fallen = -10 * np.log10(power(apply(CONDITIONS["telephone"], samples=tone)[4000:]) / power(tone[4000:]))
    assert fallen == pytest.approx(0, abs=1) if loss == 0 else fallen >= loss


def test_the_telephone_has_no_more_than_255_levels() -> None:
    assert len(np.unique(apply(CONDITIONS["telephone"]))) <= 255


def test_reverberation_keeps_level_and_length_and_smears_what_was_short() -> None:
    click = np.zeros(SAMPLING_RATE, dtype=np.float32)
    click[1000] = 0.5
    room = apply({"effect": "reverberation", "decay": [0.4, 0.4], "distance": [0.3, 0.3]}, samples=click)
    assert len(room) == len(click) and power(room) == pytest.approx(power(click), rel=1e-4)
    assert not room[:990].any() or np.abs(room[:990]).max() < 1e-5
    direct = float(room[1000] ** 2)
    assert 1 - direct / (power(room) * len(room)) == pytest.approx(0.3, abs=0.03)
    tail = room[1032:].astype(np.float64) ** 2
    early, late = tail[:1600].sum(), tail[4800:6400].sum()  # a gap of 0.3 s of a T60 of 0.4 s: 45 dB
    assert 10 * np.log10(early / late) == pytest.approx(45, abs=4)


def test_level_is_in_decibel_and_clips_at_full_scale() -> None:
    assert np.allclose(apply({"effect": "level", "decibel": [-20, -20]}), SPEECH / 10, atol=1e-7)
    assert apply({"effect": "level", "decibel": [60, 60]}).max() == 1.0


@pytest.mark.parametrize("name", EFFECTS)
def test_every_effect_is_decided_by_the_seed_and_keeps_length_and_type(name: str) -> None:
    before = SPEECH.copy()
    first, again, other = (apply(CONDITIONS[name], seed=seed) for seed in (3, 3, 4))
    assert first.dtype == np.float32 and len(first) == len(SPEECH) and np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name == "telephone")
    assert np.array_equal(SPEECH, before) and not np.array_equal(first, SPEECH)


@pytest.mark.parametrize("name", EFFECTS)
def test_silence_and_nothing_at_all_stay_finite(name: str) -> None:
    silence = np.zeros(4000, dtype=np.float32)
    assert np.isfinite(apply(CONDITIONS[name], samples=silence)).all()


def test_effects_are_applied_in_order() -> None:
    loud, quiet = {"effect": "level", "decibel": [40, 40]}, {"effect": "level", "decibel": [-40, -40]}
    assert np.allclose(apply(quiet, loud), SPEECH, atol=1e-6)
    assert np.abs(apply(loud, quiet)).max() == pytest.approx(0.01)


def test_babble_goes_on_beyond_the_end_of_short_talkers() -> None:
    short = Scene(np.random.default_rng(0), [np.ones(10, dtype=np.float32)])
    samples = apply_effects(SPEECH, [{"effect": "babble", "snr": [0, 0], "talkers": [1, 1]}], short)
    assert np.abs(samples - SPEECH).min() > 0


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        ({"effect": "echo"}, r"no effect 'echo'; choose one of noise, babble"),
        ({"snr": [1, 2]}, r"no effect ''; choose one of"),
        ({"effect": "noise", "colour": "green", "snr": [1, 2]}, r"no colour 'green'; choose one of white"),
        ({"effect": "noise", "colour": "white"}, r"effect 'noise' .*'snr'; correct its parameters"),
        ({"effect": "level", "decibel": [0, 1], "gain": 3}, r"effect 'level' .*'gain'; correct its parameters"),
        ({"effect": "level", "decibel": 3}, r"effect 'level' .*correct its parameters"),
        ({"effect": "level", "decibel": [3]}, r"effect 'level' .*correct its parameters"),
        ({"effect": "level", "decibel": ["a", "b"]}, r"effect 'level' .*correct its parameters"),
        ({"effect": "telephone", "band": [3400, 300]}, r"effect 'telephone' .*correct its parameters"),
        ({"effect": "reverberation", "decay": [0, 0], "distance": [0.1, 0.2]}, r"effect 'reverberation' has decay 0"),
        ({"effect": "reverberation", "decay": [0.2, 0.2], "distance": [1, 1]}, r"effect 'reverberation' .*distance 1"),
        ({"effect": "babble", "snr": [1, 2], "talkers": [3, 1]}, r"effect 'babble' .*correct its parameters"),
    ],
)
def test_wrong_conditions_are_refused_with_a_remedy(effect: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply(effect)


def test_babble_without_talkers_is_refused() -> None:
    with pytest.raises(ConfigError, match="babble needs other talkers"):
        apply_effects(SPEECH, [CONDITIONS["babble"]], Scene(np.random.default_rng(0)))
