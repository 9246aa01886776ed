"""``asrmerge`` that kills itself when so many of its trials are in the journal: ``pipeline_killed.py TRIALS ARGUMENTS``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

if __name__ == "__main__":
    from asrmerge.cli import main
    from asrmerge.search.history import History

    left = int(sys.argv.pop(1))
    keep = History.keep

    def keep_and_die(self: History, *arguments: Any) -> None:
        global left
        keep(self, *arguments)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    History.keep = keep_and_die  # type: ignore[method-assign]
    main()
