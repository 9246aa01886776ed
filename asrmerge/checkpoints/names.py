"""One name per parameter: spellings that differ between library versions, and tied weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAGNITUDE = ".parametrizations.weight.original0"  # g of a weight-normed weight, as torch.nn.utils.parametrizations names it
DIRECTION = ".parametrizations.weight.original1"  # v

_OLD_SPELLINGS = {".weight_g": MAGNITUDE, ".weight_v": DIRECTION}  # torch.nn.utils.weight_norm, before PyTorch 2.0

_TIED = {"whisper": {"proj_out.weight": "model.decoder.embed_tokens.weight"}}


def canonical_name(name: str) -> str:
    """``name`` with weight normalisation spelt the new way; every other name unchanged."""
    for old, new in _OLD_SPELLINGS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def tied_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Second name → first name of parameters that the configuration ties; the first name is the one kept."""
    if config.get("tie_word_embeddings", True) is False:
        return {}
    return dict(_TIED.get(str(config.get("model_type")), {}))
