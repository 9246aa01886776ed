"""The highest logit is what was said, unless it is no number."""

from __future__ import annotations

import pytest
import torch

from asrmerge.errors import OutputError
from asrmerge.recognizers.computing import best_tokens


def test_it_takes_the_highest() -> None:
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    logits[0, 1] = -torch.inf
    logits[0, 1, 4] = 2.0
    assert torch.equal(best_tokens(logits), logits.argmax(-1)) and best_tokens(logits)[0, 1] == 4


def test_nan_is_refused_where_it_counts() -> None:
    logits = torch.zeros(2, 4, 3)
    logits[1, 2, 0] = torch.nan
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    assert best_tokens(logits, real).shape == (2, 4)
    for mask in (None, torch.ones(2, 4, dtype=torch.bool)):
        with pytest.raises(OutputError, match=r"no number \(NaN\)"):
            best_tokens(logits, mask)
