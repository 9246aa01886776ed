"""Settings in YAML: found by path or among the shipped ones, with ``${variables}`` filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from asrmerge.content import content_folder
from asrmerge.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def read_settings(path: str | Path, kind: str, definitions: Mapping[str, str] | None = None) -> tuple[Any, Path]:
    """The content of a settings file, and where it was found.

    ``${name}`` and ``${name:-default}`` come from ``definitions``, then the environment. A name without a folder that is not a
    file here is looked up in the shipped folder ``kind``: ``configs`` or ``eval``.

    Raises:
        ConfigError: the file is missing or not YAML, or a variable is not set.
    """
    file = _locate(Path(path), kind)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML ({' '.join(str(error).split())}); correct the file.") from error
    return _expand(content, {**os.environ, **(definitions or {})}, str(file)), file


def _locate(path: Path, kind: str) -> Path:
    shipped = content_folder(kind)
    by_name: tuple[Path, ...] = (shipped / path.name, shipped / f"{path.name}.yaml") if len(path.parts) == 1 else ()
    for candidate in (path, *by_name):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(file.name for file in shipped.glob("*.yaml")))
    what = "configuration" if kind == "configs" else "suite"
    raise ConfigError(f"{path}: no such {what}; give a YAML file, or one of the shipped ones ({known}).")


def _expand(content: Any, values: Mapping[str, str], place: str) -> Any:
    if isinstance(content, dict):
        return {key: _expand(value, values, place) for key, value in content.items()}
    if isinstance(content, list):
        return [_expand(value, values, place) for value in content]
    if not isinstance(content, str):
        return content

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        value = values.get(name, default)
        if value is None:
            raise ConfigError(f"{place}: '${{{name}}}' is not set; add --define {name}=VALUE or set it in the environment.")
        return value

    return _VARIABLE.sub(replace, content)
