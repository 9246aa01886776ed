"""Collects statistics and kills itself after so many utterances: ``MODEL MANIFEST OUTPUT SETTINGS UTTERANCES``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    import torch

    from asrmerge.speech.manifest import read_manifest
    from asrmerge.statistics.collecting import collect_statistics
    from asrmerge.statistics.settings import StatisticsSettings
    from asrmerge.statistics.subject import load_subject

    model, manifest, output, settings, last = sys.argv[1:]
    torch.set_num_threads(1)

    def die(done: int, _: int) -> None:
        if done >= int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    chosen = StatisticsSettings.model_validate_json(settings)
    collect_statistics(load_subject(model), read_manifest(manifest), Path(output), chosen, keep_every=0, on_utterance=die)
