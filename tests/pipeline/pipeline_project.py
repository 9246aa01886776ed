"""A tiny project to run: random models, noise with texts, a configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny_recognizers import make_models, make_utterances

from asrmerge.speech.manifest import write_manifest

DOMAINS = ("legal", "medical")
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    """A folder with ``base``, experts, and the manifests of two domains and general speech."""

    folder: Path
    base: Path
    experts: dict[str, Path]

    def manifests(self, name: str) -> dict[str, str]:
        return {split: str(self.folder / f"{name}-{split}.jsonl") for split in ("train", "validation", "test")}

    def config(self, run: Path, **changes: Any) -> Path:
        """A configuration file beside the folder ``run``; ``changes`` go over the usual keys, ``None`` takes one out."""
        content: dict[str, Any] = {
            "name": "tiny",
            "output": str(run),
            "seed": 3,
            "base": str(self.base),
            "domains": {name: self.manifests(name) for name in DOMAINS},
            "general": self.manifests("general"),
            "finetune": {"steps": 3, "batch_seconds": 2, "learning_rate": 1.0e-2, "evaluate_every": 2, "joint_steps": 2},
            "search": {"trials": 6, "curve": [0.5, 1.0], "constraints": ["general.wer <= 1.5 * base"]},
            "evaluation": {"samples": 100},
            "cache": str(self.folder / "cache"),
            "workers": 1,
            **changes,
        }
        path = run.parent / f"{run.name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path


def make_project(folder: Path, family: str) -> Project:
    base, experts = make_models(folder, family)
    random_seed = 0
    for name in (*DOMAINS, "general"):
        for split in ("train", "validation", "test"):
            random_seed += 1
            utterances = make_utterances(folder / "audio", f"{name}-{split}", [0.4 + 0.09 * i for i in range(6)], random_seed)
            write_manifest(folder / f"{name}-{split}.jsonl", utterances)
    return Project(folder, base, experts)


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables}


def asrmerge(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "asrmerge.cli", *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
