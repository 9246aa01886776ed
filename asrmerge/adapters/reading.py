"""LoRA adapters on disk as PEFT writes them, read lazily: the factors of one module at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrmerge.adapters.factors import Factors
from asrmerge.adapters.settings import AS_FULL_MODEL, CONFIG_FILE, check_supported, scaling
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.hub import locate
from asrmerge.checkpoints.names import canonical_name, tied_names
from asrmerge.checkpoints.storage import WeightFile, open_weight_file, read_json
from asrmerge.errors import CheckpointError, IncompatibleError
from asrmerge.files import hash_content, hash_file

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."

_A, _B = ".lora_A.weight", ".lora_B.weight"
_MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")
_UNRELATED = 0.5  # relative distance of weights; fine-tunes move by a few per cent, trainings from elsewhere by about 1.4
_logger = logging.getLogger("asrmerge.adapters")


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and no full model."""
    return (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file()


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter on disk with its configuration. Values are read on demand, as float32, and checked for NaN and Inf."""

    label: str  # as the user wrote it: a path or a hub id
    folder: Path
    config: Mapping[str, Any]
    weight_file: Path
    _file: WeightFile = field(repr=False)
    _modules: Mapping[str, tuple[str, str]] = field(repr=False)  # module → the names of A and B in the file
    _magnitudes: Mapping[str, str] = field(repr=False)  # module → name
    _saved: Mapping[str, str] = field(repr=False)  # the base's parameter → name

    @classmethod
    def open(cls, source: str | Path, revision: str | None = None) -> Adapter:
        """Open a local folder or a hub id: ``adapter_config.json`` with ``adapter_model.safetensors`` or ``.bin``.

        Raises:
            CheckpointError: missing, incomplete or corrupt, or a kind of adapter that cannot be merged.
        """
        folder = locate(source, revision)
        config = read_json(folder / CONFIG_FILE)
        check_supported(config, folder / CONFIG_FILE)
        path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
        if path is None:
            raise CheckpointError(f"{folder} has no {' or '.join(WEIGHT_FILES)}: copy the adapter's weights into it.")
        file = open_weight_file(path)
        adapter = cls(str(source), folder, config, path, file, *_index(file, path))
        adapter._check_file()
        return adapter

    @property
    def modules(self) -> tuple[str, ...]:
        """The adapted linear layers by their names in the base, sorted."""
        return tuple(sorted(self._modules))

    @property
    def saved(self) -> tuple[str, ...]:
        """The base's parameters that were trained in full (``modules_to_save``, biases), sorted."""
        return tuple(sorted(self._saved))

    @property
    def uses_dora(self) -> bool:
        """Whether there are magnitudes."""
        return bool(self._magnitudes)

    @property
    def base(self) -> str | None:
        """What the adapter was trained on: a path or a hub id, as the configuration says it."""
        name = self.config.get("base_model_name_or_path")
        return str(name) if name else None

    def rank(self, module: str) -> int:
        """The module's r."""
        return self._file.shape(self._names(module)[0])[0]

    def shape(self, module: str) -> tuple[int, int]:
        """The shape (out, in) of the module's weight."""
        a, b = self._names(module)
        return self._file.shape(b)[0], self._file.shape(a)[1]

    def factors(self, module: str) -> Factors:
        """B and A, with the scaling in B."""
        a, b = self._names(module)
        scale = scaling(self.config, module, self.rank(module), self.folder / CONFIG_FILE)
        return Factors(self._read(b) * scale, self._read(a))

    def magnitude(self, module: str) -> Tensor | None:
        """DoRA's magnitude [out]; None without."""
        name = self._magnitudes.get(module)
        return None if name is None else self._read(name)

    def saved_shape(self, parameter: str) -> tuple[int, ...]:
        """Shape of a parameter that was trained in full."""
        return self._file.shape(self._saved[parameter])

    def read_saved(self, parameter: str) -> Tensor:
        """A parameter that was trained in full; integers keep their dtype."""
        return self._read(self._saved[parameter])

    def hash(self) -> str:
        """SHA-256 of the configuration's and the weights' hashes: with another alpha it is another adapter."""
        return hash_content([hash_file(self.folder / CONFIG_FILE), hash_file(self.weight_file)])

    def check_fits(self, base: Checkpoint) -> None:
        """Check that every adapted layer and saved parameter is in ``base``, in its shape, and that ``base`` is related to the
        one that the adapter was trained on; another name is only worth a warning, for folders get moved.

        Raises:
            IncompatibleError: the first that isn't there or differs, with what to do.
        """
        known, ties = set(base.names), tied_names(base.config)
        for module in self.modules:
            self._check_shape(f"{module}.weight", self.shape(module), base, known, ties)
        for parameter in self.saved:
            self._check_shape(canonical_name(parameter), self.saved_shape(parameter), base, known, ties)
        if self.base is not None:
            self._check_trained_on(self.base, base)

    def _check_trained_on(self, trained_on: str, base: Checkpoint) -> None:
        """Check one weight of the base that the configuration names, where that is a folder on this machine."""
        name = f"{self.modules[0]}.weight"
        name = tied_names(base.config).get(name, name)
        try:
            own, given = Checkpoint.open(Path(trained_on)).read(name).to(torch.float32), base.read(name).to(torch.float32)
        except CheckpointError:
            own = given = torch.zeros(0)  # a hub id, or a folder that is elsewhere or empty by now
        if own.shape != given.shape or bool((given - own).norm() > _UNRELATED * own.norm()):
            raise IncompatibleError(
                f"the adapter {self.label} was trained on {trained_on}, whose {name} is quite another than that of "
                f"{base.folder}: give the base that it was trained on, or correct base_model_name_or_path in its {CONFIG_FILE}."
            )
        if Path(trained_on).name != Path(base.label).name:
            _logger.warning("The adapter %s says it was trained on %s; the base given is %s.", self.label, trained_on, base.label)

    def _check_shape(
        self, parameter: str, shape: tuple[int, ...], base: Checkpoint, known: set[str], ties: Mapping[str, str]
    ) -> None:
        remedy = f"give the base that it was trained on ({self.base or 'its adapter_config.json does not say which'})."
        first = ties.get(parameter, parameter)
        if first not in known:
            raise IncompatibleError(f"the adapter {self.label} changes {parameter}, which {base.folder} doesn't have: {remedy}")
        if base.shape(first) != shape:
            raise IncompatibleError(
                f"the adapter {self.label} changes {parameter} of shape {list(shape)}, which has shape "
                f"{list(base.shape(first))} in {base.folder}: {remedy}"
            )

    def _check_file(self) -> None:
        if not self._modules:
            raise CheckpointError(f"{self.weight_file} holds no LoRA weights: save the adapter again with save_pretrained.")
        for module, names in sorted(self._modules.items()):
            a, b = (self._file.shape(name) for name in names)
            if len(a) != 2 or len(b) != 2:
                raise CheckpointError(
                    f"{module} in {self.weight_file} is a LoRA of a convolution (shapes {list(a)}, {list(b)}), and only those of "
                    f"linear layers can be merged: {AS_FULL_MODEL}."
                )
            if a[0] != b[1] or a[0] == 0:
                raise CheckpointError(
                    f"{module} in {self.weight_file} has factors {list(b)} and {list(a)}, which don't multiply."
                )
            scaling(self.config, module, a[0], self.folder / CONFIG_FILE)
            magnitude = self._magnitudes.get(module)
            if self._magnitudes and (magnitude is None or self._file.shape(magnitude) != (b[0],)):
                raise CheckpointError(f"{module} in {self.weight_file} lacks a DoRA magnitude of length {b[0]}: save it again.")
        if bool(self.config.get("use_dora")) != self.uses_dora:
            raise CheckpointError(
                f"{self.folder / CONFIG_FILE} says use_dora {bool(self.config.get('use_dora'))}, but {self.weight_file.name} "
                f"holds {'magnitudes' if self.uses_dora else 'no magnitudes'}: copy both files again."
            )

    def _names(self, module: str) -> tuple[str, str]:
        try:
            return self._modules[module]
        except KeyError:
            raise CheckpointError(f"{self.folder} does not adapt {module}: it adapts {len(self._modules)} others.") from None

    def _read(self, name: str) -> Tensor:
        tensor = self._file.read(name)
        if not tensor.is_floating_point():
            return tensor
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name} in {self.weight_file} holds NaN or Inf: the training diverged; take an earlier adapter or leave it out."
            )
        return tensor.to(torch.float32)


def _index(file: WeightFile, path: Path) -> tuple[dict[str, tuple[str, str]], dict[str, str], dict[str, str]]:
    """Modules, magnitudes and saved parameters: the base's names → the file's."""
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    magnitudes: dict[str, str] = {}
    saved: dict[str, str] = {}
    for name in file.names():
        plain = name.removeprefix(PREFIX)
        if plain.endswith(_A):
            first[plain.removesuffix(_A)] = name
        elif plain.endswith(_B):
            second[plain.removesuffix(_B)] = name
        elif plain.endswith(_MAGNITUDES):
            magnitudes[plain.partition(_MAGNITUDES[0])[0]] = name
        elif ".lora_" in plain:
            raise CheckpointError(f"{path} holds {name}, and only LoRA of linear layers can be merged: {AS_FULL_MODEL}.")
        else:
            saved[plain.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = name
    for module in sorted(first.keys() ^ second.keys()):
        missing = "lora_A" if module in second else "lora_B"
        raise CheckpointError(f"{path} lacks {missing} of {module}: copy the adapter again from where it came from.")
    return {module: (first[module], second[module]) for module in first}, magnitudes, saved
