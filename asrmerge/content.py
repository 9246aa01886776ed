"""Where the shipped content lies: in the repository beside the package, or inside an installed package."""

from __future__ import annotations

from pathlib import Path

from asrmerge.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent
EMBEDDED = "embedded:"


def content_folder(kind: str) -> Path:
    """The folder of ``domains``, ``eval`` or ``configs``."""
    installed = _PACKAGE / "content" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def locate_domain(name: str | Path) -> Path:
    """The folder of a shipped domain by name, or of a user's own by path.

    Raises:
        ConfigError: neither exists; the message lists the shipped ones.
    """
    for folder in (Path(name).expanduser(), content_folder("domains") / str(name)):
        if (folder / "domain.yaml").is_file():
            return folder
    known = ", ".join(shipped_domains())
    raise ConfigError(f"domain '{name}': neither a folder with a domain.yaml nor one of the shipped domains ({known})")


def shipped_domains() -> list[str]:
    """Names of the shipped domains."""
    return sorted(file.parent.name for file in content_folder("domains").glob("*/domain.yaml"))


def resolve_model(source: str) -> str:
    """A model source as a folder or hub id: ``embedded:whisper`` becomes the folder of the shipped base.

    Raises:
        ConfigError: no such embedded base.
    """
    if not source.startswith(EMBEDDED):
        return str(Path(source).expanduser()) if source.startswith("~") else source
    folder = _PACKAGE / "bases" / source.removeprefix(EMBEDDED)
    if not (folder / "config.json").is_file():
        known = ", ".join(sorted(EMBEDDED + file.parent.name for file in (_PACKAGE / "bases").glob("*/config.json")))
        raise ConfigError(f"'{source}': no such embedded base; there are {known or 'none'}")
    return str(folder)
