"""Writing a merged adapter: as an adapter that PEFT loads, or added to its base as full weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from asrmerge import __version__
from asrmerge.adapters.materialise import AdaptedCheckpoint
from asrmerge.adapters.merging import MergedAdapter
from asrmerge.adapters.reading import PREFIX, WEIGHT_FILES, is_adapter
from asrmerge.adapters.settings import CONFIG_FILE
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import read_finite
from asrmerge.checkpoints.writing import PROVENANCE_FILE, write_checkpoint
from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.files import atomic_folder, write_json


def write_adapter(folder: str | Path, merged: MergedAdapter) -> None:
    """Write a folder that ``peft.PeftModel.from_pretrained(base, folder)`` loads, with ``merge_provenance.json`` in it.

    ``folder`` stays as it was on any failure.

    Raises:
        ConfigError: ``folder`` is one of the adapters that were merged.
        CheckpointError: ``folder`` holds something other than an adapter.
    """
    folder = Path(folder)
    _check_output(folder, merged)
    if folder.exists() and not (folder.is_dir() and (is_adapter(folder) or not any(folder.iterdir()))):
        raise CheckpointError(f"{folder} holds something other than an adapter and is not replaced: give another folder.")
    with atomic_folder(folder) as temporary:
        save_file(_tensors(merged), temporary / WEIGHT_FILES[0], metadata={"format": "pt"})
        write_json(temporary / CONFIG_FILE, adapter_config(merged))
        write_json(temporary / PROVENANCE_FILE, _provenance(merged, None))


def write_full(folder: str | Path, merged: MergedAdapter, base: Checkpoint) -> None:
    """Write ``base`` with the merged adapter in it as full weights, in the base's dtypes, with ``merge_provenance.json``.

    Raises:
        ConfigError: ``folder`` is the base or one of the adapters.
        IncompatibleError: the adapters are of another model.
        CheckpointError: ``folder`` holds something other than a checkpoint.
    """
    folder = Path(folder)
    _check_output(folder, merged, base)
    full = AdaptedCheckpoint.join(base, merged, f"{base.label} with {', '.join(merged.adapters)}")
    tensors = ((name, read_finite(full, name)) for name in full.names)
    provenance = json.dumps(_provenance(merged, base), indent=2, ensure_ascii=False) + "\n"
    write_checkpoint(folder, tensors, donor=base, extra_files={PROVENANCE_FILE: provenance})


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
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": next((one.base for one in merged.adapters.values() if one.base is not None), None),
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


def _check_output(folder: Path, merged: MergedAdapter, base: Checkpoint | None = None) -> None:
    inputs = [adapter.folder for adapter in merged.adapters.values()] + ([] if base is None else [base.folder])
    if any(one.resolve() == folder.resolve() for one in inputs):
        raise ConfigError(f"{folder} is one of the inputs and would be replaced: give another output folder.")


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
