"""What a command says while it works: on standard error, and in a log file of its output folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

_LINE = "%(asctime)s %(levelname)s %(message)s"


@contextmanager
def console_logging(console: Console) -> Iterator[None]:
    """asrmerge's log on ``console``, as plain lines where that is no terminal; other libraries' chatter stays out of it."""
    from rich.logging import RichHandler

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logger = logging.getLogger("asrmerge")
    handler: logging.Handler = RichHandler(console=console, show_path=False, show_level=False)
    if not console.is_terminal:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(logging.Formatter(_LINE))
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def file_logging(path: Path) -> Iterator[Callable[[], None]]:
    """asrmerge's log also in ``path``, from the moment that the yielded function is called."""
    logger = logging.getLogger("asrmerge")
    handlers: list[logging.Handler] = []

    def begin() -> None:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter(_LINE))
        logger.addHandler(handlers[-1])

    try:
        yield begin
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
