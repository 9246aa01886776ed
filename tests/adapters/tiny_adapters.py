"""LoRA adapters of tiny models, trained by chance and saved by PEFT itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

FAMILIES = ["whisper", "ctc"]


def adapt(base: Path, folder: Path, family: str, seed: int, save: dict | None = None, **config) -> Path:
    """An adapter of ``base`` with random factors, magnitudes and saved modules, as PEFT saves it."""
    peft = pytest.importorskip("peft")
    model = type(tiny_model(family)).from_pretrained(base)
    options = {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]} | config
    model = peft.get_peft_model(model, peft.LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, **(save or {}))
    return folder


def logits(model, family: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if family == "ctc":
            return model.eval()(input_values=torch.randn(2, 400, generator=generator)).logits
        features = torch.randn(2, 4, 20, generator=generator)
        return model.eval()(input_features=features, decoder_input_ids=torch.tensor([[3, 5, 7], [3, 6, 8]])).logits


def peft_logits(base: Path, adapter: Path, family: str) -> torch.Tensor:
    peft = pytest.importorskip("peft")
    return logits(peft.PeftModel.from_pretrained(type(tiny_model(family)).from_pretrained(base), adapter), family)
