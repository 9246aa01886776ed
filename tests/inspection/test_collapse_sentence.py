"""The sentence on where activations collapse, and what speaks for or against a merge."""

from __future__ import annotations

import re

import pytest
from diagnosis_sample import DECODER, ENCODER, diagnosis, layer

from asrmerge.inspection.collapse import collapse_sentence
from asrmerge.inspection.diagnosis import COLLAPSED, EXPLODED, MUTED


def sentence(figures, **options):
    """Of layers with these pairs of variance and effective rank, the first six in the encoder."""
    layers = [layer(name, *pair, **options) for name, pair in zip((*ENCODER, *DECODER), figures, strict=False)]
    return collapse_sentence(layers).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("figures", "wanted"),
    [
        (
            [(0.96, 0.99), (1.0, 1.02)],
            "No layer collapses: variances are 96 % to 100 % of the experts', effective ranks 99 % to 102 %.",
        ),
        ([(1.0, 1.0)], "No layer collapses: variances are 100 % of the experts', effective ranks 100 %."),
        (
            [(0.9, 0.9)] * 7 + [(0.41, 0.62), (0.8, 0.9)],
            "Activations collapse in decoder.1: their variance is 41 % of the experts' and their effective rank 62 %.",
        ),
        (
            [(0.9, 0.9), (0.7, 0.9), (0.5, 0.7), (0.6, 0.7)],
            "Activations collapse from encoder.1 on: there their variance is 70 % of the experts' and their effective rank 90 %; "
            "in encoder.2, the worst, their variance is 50 % of the experts' and their effective rank 70 %.",
        ),
        (
            [(0.9, 0.9), (0.6, 0.9), (0.9, 0.9), (0.9, 0.2)],
            "Activations collapse in 2 of 4 layers: in encoder.1, the first, their variance is 60 % of the experts' and their "
            "effective rank 90 %; in encoder.3, the worst, their variance is 90 % of the experts' and their effective rank 20 %.",
        ),
        (
            [(0.004, 0.5), (0.1, 0.6)],
            "Activations collapse in all 2 layers, most in the first, encoder.0: their variance is 0.4 % of the experts' and "
            "their effective rank 50 %.",
        ),
        ([(1.0, 1.0), (1.8, 1.0)], "Activations explode in encoder.1: their variance is 180 % of the experts'."),
        (
            [(0.5, 1.0), (1.6, 1.0), (2.0, 1.0)],
            "Activations collapse in encoder.0: their variance is 50 % of the experts' and their effective rank 100 %. "
            "They explode from encoder.1 on: there their variance is 160 % of the experts'; in encoder.2, the worst, their "
            "variance is 200 % of the experts'.",
        ),
        ([(None, 0.5), (1.0, 1.0)], "Activations collapse in encoder.0: their effective rank is 50 % of the experts'."),
        ([(None, None)], "No layer collapses, for the experts' activations do not vary."),
        ([], "The model has no layers of an encoder or a decoder whose activations could be compared."),
    ],
)  # fmt: skip
def test_first_and_worst_layers_are_named(figures, wanted):
    assert sentence(figures) == wanted


def test_units_are_spoken_of_where_their_layer_holds():
    one = "Inside of encoder.0, 40 % of the units of fc1 vary less than half as much as in the experts"
    assert sentence([(1.0, 1.0)], quiet=0.4).endswith(f" {one}.")
    assert sentence([(1.0, 1.0)] * 2, quiet=0.4).endswith(f" {one}; one more such layer.")
    assert sentence([(1.0, 1.0)] * 4, quiet=0.4).endswith(f" {one}; three more such layers.")
    assert sentence([(0.5, 1.0), (1.0, 1.0)], quiet=0.4).count("units") == 1
    assert "encoder.1" in sentence([(0.5, 1.0), (1.0, 1.0)], quiet=0.4)
    assert "units" not in sentence([(1.0, 1.0)], quiet=0.09)


def test_limits_themselves_are_not_beyond_them():
    assert not layer("encoder.0", COLLAPSED, COLLAPSED, quiet=MUTED).collapsed
    assert not layer("encoder.0", EXPLODED).exploded and not layer("encoder.0", quiet=MUTED).muted
    assert layer("encoder.0", COLLAPSED - 1e-9).collapsed and layer("encoder.0", 1.0, COLLAPSED - 1e-9).collapsed


@pytest.mark.parametrize(
    ("options", "tone"),
    [({}, "good"), ({"variance": 0.5}, "bad"), ({"rank": 0.5}, "bad"), ({"variance": 1.6}, "bad"), ({"quiet": 0.2}, "bad")],
)
def test_the_tone(options, tone):
    assert diagnosis([layer("encoder.0"), layer("encoder.1", **options)]).tone == tone


def test_without_layers_nothing_is_said_for_or_against():
    assert diagnosis([]).tone == "neutral"


def test_every_sentence_ends():
    assert re.fullmatch(r"[^.].*[^.]\.", sentence([(0.5, 0.5), (1.7, 1.0), (1.0, 1.0)], quiet=0.3))
