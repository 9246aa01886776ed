"""Which stages of a run are done: each is keyed by the hash of its inputs and done again only when that changes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrmerge.files import hash_content, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageStore:
    """The keys of finished stages, one file each in ``folder``."""

    folder: Path

    def is_done(self, stage: str, inputs: Any, outputs: Sequence[Path]) -> bool:
        """Whether ``stage`` was finished with the same ``inputs`` and its outputs are still there."""
        file = self._file(stage)
        try:
            known = json.loads(file.read_text(encoding="utf-8"))["key"]
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return False
        return bool(known == hash_content(inputs)) and all(output.exists() for output in outputs)

    def finish(self, stage: str, inputs: Any) -> None:
        """Remember that ``stage`` is done; ``inputs`` are kept readable beside their hash."""
        write_json(self._file(stage), {"stage": stage, "key": hash_content(inputs), "inputs": inputs})

    def run(self, stage: str, inputs: Any, outputs: Sequence[Path], work: Callable[[], None]) -> bool:
        """Do ``work`` unless it is done already; returns whether it was done now."""
        if self.is_done(stage, inputs, outputs):
            logger.info("%s: done already", stage)
            return False
        self._file(stage).unlink(missing_ok=True)
        work()
        self.finish(stage, inputs)
        return True

    def _file(self, stage: str) -> Path:
        return self.folder / f"{stage.replace('/', '.')}.json"
