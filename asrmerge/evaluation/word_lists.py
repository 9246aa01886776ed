"""Text files with one entry a line, read with the place of each entry for the messages about it."""

from __future__ import annotations

from pathlib import Path

from asrmerge.errors import ConfigError

COMMENTS = ("#", ";;")  # the latter is sclite's


def read_entries(path: Path | str) -> list[tuple[str, str]]:
    """Every line that is neither blank nor a comment, stripped, after its place (file and line number).

    Raises:
        ConfigError: if the file cannot be read, is not UTF-8, or holds no entry.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a text file with one entry a line.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8.") from error
    entries = [
        (f"{path}, line {number}", text)
        for number, line in enumerate(lines, start=1)
        if (text := line.strip()) and not text.startswith(COMMENTS)
    ]
    if not entries:
        raise ConfigError(f"{path}: there are no entries; write one a line.")
    return entries
