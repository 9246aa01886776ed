"""Which parameters share their coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from asrmerge.learning.method import WHOLE_MODEL

Per = Literal["model", "layer", "group"]


def share_groups(groups: Sequence[str], per: Per) -> tuple[tuple[str, ...], Tensor]:
    """The groups of coefficients, as recipes name them, and for each structural group the number of its own.

    ``layer`` joins the parts of a decoder's layer: ``decoder.0.self``, ``decoder.0.cross`` and ``decoder.0.ffn``.
    """
    names = [_shared(group, per) for group in groups]
    found = sorted(set(names))
    return tuple(found), torch.tensor([found.index(name) for name in names])


def _shared(group: str, per: Per) -> str:
    if per == "model":
        return WHOLE_MODEL
    return group if per == "group" else ".".join(group.split(".")[:2])
