"""Statistics files for the folders of tiny models, with random but possible content."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from asrmerge.checkpoints import Checkpoint
from asrmerge.merging.artefact import Header, write_statistics

MAGNITUDE, DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
FRAMES = 40  # more than the maps are wide, so that nothing is singular


def add_statistics(folder: Path, seed: int, utterances: int | None = None) -> Path:
    """fisher, grams and factors of the model in its folder; with headers, where a number of utterances is given."""
    checkpoint = Checkpoint.open(folder)
    generator = torch.Generator().manual_seed(1000 + seed)
    found: dict[str, dict[str, torch.Tensor]] = {"fisher": {}, "grams": {}, "factors": {}}
    for name in checkpoint.names:
        shape = checkpoint.shape(name)
        if not name.endswith(MAGNITUDE):
            found["fisher"][name.replace(DIRECTION, ".weight")] = torch.rand(shape, generator=generator) + 1e-3
        if is_linear(name, shape):
            module = name.removesuffix(".weight")
            inputs = torch.randn(FRAMES, torch.Size(shape[1:]).numel() + 1, generator=generator)
            inputs[:, -1] = 1
            gradients = torch.randn(FRAMES, shape[0], generator=generator)
            found["grams"][module] = inputs.T @ inputs / FRAMES
            found["factors"][module] = gradients.T @ gradients / FRAMES
    for kind, tensors in found.items():
        path = folder / f"{kind}.safetensors"
        if utterances is None:
            save_file(tensors, path)
            continue
        header = Header(kind=kind, units="", model=folder.name, model_sha256=checkpoint.hash(), utterances=utterances)
        write_statistics(path, tensors, header)
    return folder


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is the weight of a linear map; a positional convolution has groups, an embedding no inputs but indices."""
    return name.endswith(".weight") and len(shape) in (2, 3) and "embed" not in name


def load(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{kind}.safetensors")
