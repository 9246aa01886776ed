from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(_TESTS / "search"))
_spec = importlib.util.spec_from_file_location("recognizers_conftest", _TESTS / "recognizers" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_recognizers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_recognizers)
make_ctc = _recognizers.make_ctc
