"""What an adapter's configuration says: scaling, and what cannot be merged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrmerge.errors import CheckpointError

CONFIG_FILE = "adapter_config.json"
DEFAULT_RANK = DEFAULT_ALPHA = 8  # PEFT's, where the file leaves them out

# What makes the layer compute something other than (W + scaling·B·A)x, and why it is refused.
_UNSUPPORTED = {
    "alora_invocation_tokens": "activated LoRA acts on a part of the tokens only",
    "arrow_config": "Arrow routes each token",
    "fan_in_fan_out": "it is for Conv1D layers, which speech models don't have",
    "kasa_config": "KaSA changes the base's weights",
    "layer_replication": "it changes the number of layers",
    "lora_bias": "the factor B has a bias",
    "megatron_config": "it is for models split over several machines",
    "monteclora_config": "MonteCLoRA draws its factors at random",
    "target_parameters": "it adapts parameters outside of linear layers",
    "trainable_token_indices": "it trains single rows of an embedding",
    "use_bdlora": "block-diagonal factors are not B and A",
    "use_qalora": "QA-LoRA pools the layer's inputs",
}
AS_FULL_MODEL = "merge it into its base with PEFT's merge_and_unload and give the full model"
# Initialisations that subtract B·A from the base's weights, so that the adapter fits that changed base only.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check_supported(config: Mapping[str, Any], path: Path) -> None:
    """Check that the adapter is W + scaling·B·A, or that with DoRA's magnitude.

    Raises:
        CheckpointError: another kind of adapter, or a variant of LoRA that is not; the message names it.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path} says peft_type {kind}, and only LORA adapters can be merged: {AS_FULL_MODEL}.")
    for key, reason in _UNSUPPORTED.items():
        if config.get(key):
            raise CheckpointError(f"{path} sets {key}, and {reason}: {AS_FULL_MODEL}.")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{path} says init_lora_weights {start}, which changed the base's weights: save the adapter again with "
            f"path_initial_model_for_weight_conversion, or {AS_FULL_MODEL}."
        )
    for key in ("rank_pattern", "alpha_pattern"):
        try:
            for pattern in dict(config.get(key) or {}):
                re.compile(pattern)
        except (TypeError, ValueError, re.error):
            raise CheckpointError(
                f"{path} gives {key} {config[key]!r}, which is no mapping of patterns: correct it there."
            ) from None
    kept = config.get("modules_to_save")
    if kept is not None and not isinstance(kept, list):
        raise CheckpointError(f"{path} gives modules_to_save {kept!r}, which is no list: correct it there.")


def scaling(config: Mapping[str, Any], module: str, rank: int, path: Path) -> float:
    """alpha/r, or alpha/√r for rank-stabilised LoRA, with the patterns for single modules.

    Raises:
        CheckpointError: the configuration gives the module another rank than the weights have, or no number.
    """
    configured = _patterned(config, "rank_pattern", module, config.get("r", DEFAULT_RANK))
    alpha = _patterned(config, "alpha_pattern", module, config.get("lora_alpha", DEFAULT_ALPHA))
    if configured != rank:
        raise CheckpointError(
            f"{path} gives {module} rank {configured!r}, but its weights have rank {rank}: copy both files again."
        )
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise CheckpointError(f"{path} gives {module} lora_alpha {alpha!r}, which is no number: correct it there.")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _patterned(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    # The keys are regular expressions for the end of a module's name; the first that matches counts.
    for pattern, value in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
