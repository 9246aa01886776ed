"""Acoustic conditions applied in the waveform: noise, babble, hum, rooms, telephone lines, levels.

Every effect takes float32 samples in [-1, 1] at 16 kHz and returns as many. Ranges are drawn from a seeded generator,
so that a condition is a distribution and each utterance one draw of it. Signal-to-noise ratios are in decibel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

from asrmerge.errors import ConfigError

SAMPLING_RATE = 16_000
Range = Sequence[float]
_COLOURS = {"white": 0.0, "pink": 0.5, "brown": 1.0}


@dataclass
class Scene:
    """What effects draw from: a seeded generator, and other talkers' speech for babble."""

    generator: np.random.Generator
    talkers: Sequence[np.ndarray] = field(default_factory=tuple)

    def uniform(self, bounds: Range) -> float:
        return float(self.generator.uniform(bounds[0], bounds[1]))


def noise(samples: np.ndarray, scene: Scene, *, colour: str, snr: Range) -> np.ndarray:
    """Add stationary noise; amplitude falls with frequency as f^0 (white), f^-½ (pink), f^-1 (brown)."""
    if colour not in _COLOURS:
        raise ConfigError(f"acoustics: noise has no colour '{colour}'; choose one of {', '.join(_COLOURS)}")
    spectrum = np.fft.rfft(scene.generator.standard_normal(len(samples)))
    frequency = np.maximum(np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE), 50.0)
    shaped = np.fft.irfft(spectrum * frequency ** -_COLOURS[colour], len(samples))
    return _add(samples, shaped, scene.uniform(snr))


def babble(samples: np.ndarray, scene: Scene, *, snr: Range, talkers: Range) -> np.ndarray:
    """Add ``talkers`` other people speaking at once."""
    if not scene.talkers:
        raise ConfigError("acoustics: babble needs other talkers' speech, which this place does not have; use noise")
    mixed = np.zeros(len(samples))
    for _ in range(int(scene.generator.integers(int(talkers[0]), int(talkers[1]) + 1))):
        other = scene.talkers[int(scene.generator.integers(len(scene.talkers)))]
        start = int(scene.generator.integers(len(other)))
        mixed += np.take(other, np.arange(start, start + len(samples)), mode="wrap")
    return _add(samples, mixed, scene.uniform(snr))


def hum(samples: np.ndarray, scene: Scene, *, frequency: Range, snr: Range) -> np.ndarray:
    """Add the mains or a motor: a fundamental in hertz with four falling harmonics."""
    fundamental = scene.uniform(frequency)
    time = np.arange(len(samples)) / SAMPLING_RATE
    phases = scene.generator.uniform(0, 2 * np.pi, 5)
    tones = sum(np.sin(2 * np.pi * fundamental * (k + 1) * time + phases[k]) / (k + 1) for k in range(5))
    return _add(samples, np.asarray(tones), scene.uniform(snr))


def reverberation(samples: np.ndarray, scene: Scene, *, decay: Range, distance: Range) -> np.ndarray:
    """A room: an exponentially decaying noise tail with reverberation time ``decay`` (T60, seconds).

    ``distance`` is the share of the energy that arrives by reflection, from 0 to 1.
    """
    seconds, share = scene.uniform(decay), scene.uniform(distance)
    time = np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    if not (seconds > 0.01 and 0 <= share < 1):
        raise ValueError(f"has decay {seconds:g} and distance {share:g}: the first must exceed 0.01 s, the second lie in [0, 1)")
    tail = scene.generator.standard_normal(len(time)) * np.exp(-6.9 * time / seconds)
    tail[: int(0.002 * SAMPLING_RATE)] = 0.0
    tail *= np.sqrt(share / (1 - share) / np.sum(tail**2))
    tail[0] = 1.0
    wet = fftconvolve(samples, tail)[: len(samples)]
    return (wet * _rms(samples) / max(_rms(wet), 1e-9)).astype(np.float32)


def telephone(samples: np.ndarray, scene: Scene, *, band: Range = (300.0, 3400.0)) -> np.ndarray:
    """A telephone line: band-pass in hertz, then 8-bit µ-law companding as in ITU-T G.711."""
    filtered = sosfilt(butter(4, band, btype="bandpass", fs=SAMPLING_RATE, output="sos"), samples)
    peak = max(float(np.abs(filtered).max(initial=0.0)), 1e-9)
    compressed = np.sign(filtered) * np.log1p(255 * np.abs(filtered) / peak) / np.log(256)
    steps = np.rint(compressed * 127) / 127
    expanded: np.ndarray = peak * np.sign(steps) * (256 ** np.abs(steps) - 1) / 255
    return expanded.astype(np.float32)


def level(samples: np.ndarray, scene: Scene, *, decibel: Range) -> np.ndarray:
    """Change the level; what passes full scale is clipped."""
    return np.clip(samples * 10 ** (scene.uniform(decibel) / 20), -1.0, 1.0).astype(np.float32)


EFFECTS: Mapping[str, Callable[..., np.ndarray]] = {
    effect.__name__: effect for effect in (noise, babble, hum, reverberation, telephone, level)
}


def apply_effects(samples: np.ndarray, effects: Sequence[Mapping[str, Any]], scene: Scene) -> np.ndarray:
    """Apply ``effects`` (``{"effect": name, parameter: range …}``) in order.

    Raises:
        ConfigError: an effect or one of its parameters is unknown or missing.
    """
    for entry in effects:
        parameters = dict(entry)
        name = str(parameters.pop("effect", ""))
        if name not in EFFECTS:
            raise ConfigError(f"acoustics: no effect '{name}'; choose one of {', '.join(EFFECTS)}")
        try:
            samples = EFFECTS[name](samples, scene, **parameters)
        except (TypeError, ValueError, IndexError, ArithmeticError) as error:
            raise ConfigError(f"acoustics: effect '{name}' {error}; correct its parameters") from error
    return samples


def _add(samples: np.ndarray, disturbance: np.ndarray, snr: float) -> np.ndarray:
    gain = _rms(samples) / max(_rms(disturbance), 1e-12) * 10 ** (-snr / 20)
    return (samples + gain * disturbance).astype(np.float32)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
