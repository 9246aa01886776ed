"""Writing a merged adapter: as an adapter that PEFT loads, or added to its base as full weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from asrmerge import __version__
from asrmerge.adapters.materialise import AdaptedCheckpoint, check_untied
from asrmerge.adapters.merging import MergedAdapter
from asrmerge.adapters.reading import PREFIX, WEIGHT_FILES, Adapter, is_adapter
from asrmerge.adapters.settings import CONFIG_FILE
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import read_finite
from asrmerge.checkpoints.writing import PROVENANCE_FILE, check_output, check_replaceable, room_for, write_checkpoint
from asrmerge.errors import ConfigError
from asrmerge.files import atomic_folder, write_json


def write_adapter(folder: str | Path, merged: MergedAdapter) -> None:
    """Write a folder that ``peft.PeftModel.from_pretrained(base, folder)`` loads, with ``merge_provenance.json`` in it.

    ``folder`` stays as it was on any failure.

    Raises:
        ConfigError: ``folder`` is one of the adapters that were merged.
        CheckpointError: ``folder`` holds something other than an adapter, or there is no room for it.
    """
    folder = Path(folder)
    check_target(folder, merged.adapters)
    weights = save(_tensors(merged), metadata={"format": "pt"})
    with room_for(folder, len(weights)), atomic_folder(folder) as temporary:
        (temporary / WEIGHT_FILES[0]).write_bytes(weights)
        write_json(temporary / CONFIG_FILE, adapter_config(merged))
        write_json(temporary / PROVENANCE_FILE, _provenance(merged, merged.base))


def write_full(folder: str | Path, merged: MergedAdapter, base: Checkpoint) -> None:
    """Write ``base`` with the merged adapter in it as full weights, in the base's dtypes, with ``merge_provenance.json``.

    Raises:
        ConfigError: ``folder`` is the base or one of the adapters.
        IncompatibleError: the adapters are of another model.
        CheckpointError: ``folder`` holds something other than a checkpoint.
    """
    folder = Path(folder)
    check_target(folder, merged.adapters, base)
    full = AdaptedCheckpoint.join(base, merged, f"{base.label} with {', '.join(merged.adapters)}")
    tensors = ((name, read_finite(full, name)) for name in full.names)
    provenance = json.dumps(_provenance(merged, base), indent=2, ensure_ascii=False) + "\n"
    write_checkpoint(folder, tensors, donor=base, extra_files={PROVENANCE_FILE: provenance})


def check_target(folder: Path, adapters: Mapping[str, Adapter], base: Checkpoint | None = None) -> None:
    """Check, before any work, that the merge of ``adapters`` can be written to ``folder``: with ``base``, as its full weights.

    Raises:
        ConfigError: ``folder`` is or holds one of the inputs, or a layer is both adapted and trained in full.
        CheckpointError: ``folder`` holds something other than what is written.
        IncompatibleError: full weights cannot say what an adapter changed.
    """
    check_output(folder, [one.folder for one in (*adapters.values(), base) if one is not None])
    if base is None:
        check_replaceable(folder, is_adapter, "an adapter")
        adapted = {f"{module}.weight" for one in adapters.values() for module in one.modules}
        if both := sorted(adapted & {parameter for one in adapters.values() for parameter in one.saved}):
            raise ConfigError(
                f"{both[0]} has LoRA in one adapter and was trained in full in another, which PEFT can't load as one adapter: "
                "write full weights (output: full)."
            )
    else:
        check_replaceable(folder)
        for adapter in adapters.values():
            check_untied(base, adapter, adapter.label)


def adapter_config(merged: MergedAdapter) -> dict[str, Any]:
    """PEFT's configuration of the merged adapter: alpha = r everywhere, so that the scaling is 1.

    Layers are named in full: adapters that were trained on different layers need not share one pattern.
    """
    configs = [adapter.config for adapter in merged.adapters.values()]
    ranks = {module: merged.factors(module).rank for module in merged.modules}
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    pattern = {module: rank for module, rank in ranks.items() if rank != usual}
    biases = {str(config.get("bias", "none")) for config in configs}
    kept = sorted({module for config in configs for module in config.get("modules_to_save") or ()})
    base = next((one.base for one in merged.adapters.values() if one.base is not None), None)
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base if merged.base is None else merged.base.label,
        "revision": _common([config.get("revision") for config in configs]) if merged.base is None else None,
        "task_type": _common([config.get("task_type") for config in configs]),
        "auto_mapping": _common([config.get("auto_mapping") for config in configs]),
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "use_rslora": False,
        "use_dora": bool(merged.magnitudes),
        "target_modules": list(merged.modules),
        "modules_to_save": kept or None,
        "bias": next((kind for kind in ("all", "lora_only") if kind in biases), "none"),
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _tensors(merged: MergedAdapter) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for module in merged.modules:
        factors, magnitude = merged.factors(module), merged.magnitude(module)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = factors.b.contiguous()
        if magnitude is not None:
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = magnitude
    for parameter in merged.saved:
        # An adapted layer's own parameters lie one level deeper in PEFT's module tree.
        module, _, last = parameter.rpartition(".")
        stored = f"{module}.base_layer.{last}" if module in merged.modules_factors else parameter
        tensors[PREFIX + stored] = merged.read_saved(parameter).contiguous()
    return tensors


def _common(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None


def _provenance(merged: MergedAdapter, base: Checkpoint | None) -> dict[str, Any]:
    return {
        "asrmerge": __version__,
        "method": merged.method,
        "parameters": merged.parameters.model_dump(mode="json"),
        "base": None if base is None else {"model": base.label, "sha256": base.hash()},
        "adapters": [
            {"name": name, "model": adapter.label, "weight": merged.weights[name], "sha256": adapter.hash()}
            for name, adapter in merged.adapters.items()
        ],
    }
