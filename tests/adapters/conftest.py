from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> dict[str, Path]:
    from tiny_models import save, tiny_model

    folder = tmp_path_factory.mktemp("bases")
    return {family: save(tiny_model(family), folder / family) for family in ("whisper", "ctc")}
