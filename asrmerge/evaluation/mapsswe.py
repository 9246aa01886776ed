"""The matched-pairs sentence-segment word error test, as sc_stats performs it.

Sources: L. Gillick and S. Cox, "Some statistical issues in the comparison of speech recognition algorithms", ICASSP 1989;
D. Pallett, W. Fisher and J. Fiscus, "Tools for the analysis of benchmark speech recognition tests", ICASSP 1990.

Errors come in bursts, so words are no independent trials. Utterances are cut into segments wherever both models have two words in
a row right, with nothing inserted between them: what goes wrong on one side hardly depends on the other. The differences of
errors per segment are then compared with zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.alignment import DELETION, INSERTION, SUBSTITUTION, Path, sclite_paths
from asrmerge.evaluation.paired_tests import PairedTest, paired_test

_TEXT_END = 4  # a move of our own, at which insertions after the last word are counted


def mapsswe(texts: Sequence[str], candidate: Sequence[str], reference: Sequence[str]) -> PairedTest:
    """Test whether two models make equally many errors, by segments of sclite's alignments.

    ``statistic`` is the mean difference of errors per segment, the candidate's less the reference's, over its standard error:
    standard normal between equal models, once there are some 50 segments. It is 0 where all differences are the same: there is no
    spread to tell chance by. Segments without errors by either model do not count.

    Args:
        texts: what was said, normalised; words are what white space separates.
        candidate, reference: what the two models recognised, normalised alike.

    Raises:
        ValueError: if there are not as many recognised texts as texts.
    """
    words = [text.split() for text in texts]
    first, second = (_errors(sclite_paths(words, [text.split() for text in model])) for model in (candidate, reference))
    differences = _segment_differences(first, second)
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    statistic = float(differences.mean()) / (spread / math.sqrt(len(differences))) if spread else 0.0
    return paired_test("mapsswe", statistic, math.erfc(abs(statistic) / math.sqrt(2)), "segment", differences)


@dataclass(frozen=True)
class _Errors:
    """One model's errors at every place: every word of every text, and every text's end; arrays [places].

    ``inserted``: insertions right before the place. ``wrong``: whether the word there is substituted or deleted.
    """

    inserted: npt.NDArray[np.int64]
    wrong: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.bool_]


def _errors(paths: Sequence[Path]) -> _Errors:
    end = np.array([_TEXT_END], dtype=np.uint8)
    moves = np.concatenate([part for path in paths for part in (path, end)] or [end[:0]])
    places = moves[moves != INSERTION]
    # The place that an insertion stands before: as many as were passed when it comes.
    before = np.cumsum(moves != INSERTION)[moves == INSERTION]
    return _Errors(
        inserted=np.bincount(before, minlength=len(places)),
        wrong=(places == SUBSTITUTION) | (places == DELETION),
        ends=places == _TEXT_END,
    )


def _segment_differences(first: _Errors, second: _Errors) -> npt.NDArray[np.int64]:
    """Errors of the first less errors of the second, for every segment in which either has some."""
    right = ~(first.wrong | second.wrong | first.ends)
    follows = right & (first.inserted == 0) & (second.inserted == 0)  # right, and nothing inserted before
    # A segment's last place is a text's end, or the second of two right words in a row.
    parts = first.ends.copy()
    parts[1:] |= right[:-1] & follows[1:]
    segment: npt.NDArray[np.int64] = np.cumsum(parts) - parts
    one, other = (np.bincount(segment, weights=errors.inserted + errors.wrong) for errors in (first, second))
    return (one - other)[(one > 0) | (other > 0)].astype(np.int64)
