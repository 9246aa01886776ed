"""What the models of a merge, and the corpora, say about themselves: licences, languages, data sets. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import HFValidationError, validate_repo_id

from asrmerge.content import resolve_model

UNKNOWN = "unknown"


@dataclass(frozen=True)
class License:
    """``identifier`` as on the hub, such as ``apache-2.0``; ``name`` and ``link`` tell of one that the hub has no name for."""

    identifier: str
    name: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        further = [part for part in (self.name, self.link) if part is not None]
        return f"{self.identifier} ({', '.join(further)})" if further else self.identifier


@dataclass(frozen=True)
class InputCard:
    """What is known of a model: ``remark`` says where its licence stands, or why it is not known.

    ``hub_id`` is given where it came from the hub; ``derived`` means fine-tuned by asrmerge, with no card of its own: the terms
    are those of its base and of the data that it was trained on.
    """

    hub_id: str | None = None
    license: License | None = None
    remark: str = UNKNOWN
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    derived: bool = False


def input_cards(models: Mapping[str, str]) -> dict[str, InputCard]:
    """The cards of ``models``: name → folder, hub id or ``embedded:NAME``."""
    return {name: read_input_card(source) for name, source in models.items()}


def input_licences(models: Mapping[str, str]) -> dict[str, str]:
    """The licence of each of ``models`` (name → folder or hub id) in words; of an unknown one, why it is not known."""
    return {name: licence_text(card) for name, card in input_cards(models).items()}


def licence_text(card: InputCard) -> str:
    """``apache-2.0``, or why there is none."""
    return card.remark if card.license is None else str(card.license)


def read_input_card(source: str) -> InputCard:
    """The card of a model, as far as its README.md has one: of a local folder, or of the hub's in the local cache."""
    folder = Path(resolve_model(source)).expanduser()
    if folder.is_dir():
        return _card_in(folder, None)
    hub_id = source if _is_hub_id(source) else None
    if hub_id is None:
        return InputCard(remark=f"{UNKNOWN} (the folder is not there)")
    try:
        return _card_in(Path(snapshot_download(hub_id, local_files_only=True)), hub_id)
    except (OSError, ValueError):  # not in the cache, of which the hub client has several errors
        return InputCard(hub_id, remark=f"{UNKNOWN} (see its page on the hub)")


def documents_beside(manifest: Path | str) -> tuple[str, ...]:
    """Names of the README and licence files in a manifest's folder, sorted."""
    folder = Path(manifest).expanduser().parent
    return _named(folder, ("readme", "licen"))


def _card_in(folder: Path, hub_id: str | None) -> InputCard:
    from asrmerge.experts.finetune import TRAINING_FILE  # here, because it brings torch

    readme = folder / "README.md"
    try:
        matter = (metadata_load(readme) if readme.is_file() else None) or {}
    except (ValueError, yaml.YAMLError):
        return InputCard(hub_id, remark=f"{UNKNOWN} (the front matter of README.md cannot be read)")
    found = _license(matter)
    files = _named(folder, ("licen",))
    derived = hub_id is None and not matter and not files and (folder / TRAINING_FILE).is_file()
    if found is not None:
        remark = "README.md"
    elif files:
        remark = f"{UNKNOWN} (see {', '.join(files)})"
    elif derived:
        remark = "none of its own: fine-tuned here"
    else:
        remark = UNKNOWN
    return InputCard(hub_id, found, remark, _texts(matter.get("language")), _texts(matter.get("datasets")), derived)


def _license(matter: Mapping[str, Any]) -> License | None:
    """The licence in a front matter; of several, nobody says which holds for what, so that there is none."""
    identifiers = _texts(matter.get("license"))
    if len(identifiers) != 1 or identifiers[0] == UNKNOWN:
        return None
    name, link = (_texts(matter.get(key)) for key in ("license_name", "license_link"))
    return License(identifiers[0], name[0] if name else None, link[0] if link else None)


def _texts(value: object) -> tuple[str, ...]:
    """A front matter's value, which may be one text or a list of them."""
    listed = value if isinstance(value, list) else [value]
    return tuple(item.strip() for item in listed if isinstance(item, str) and item.strip())


def _named(folder: Path, beginnings: tuple[str, ...]) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(beginnings)))


def _is_hub_id(source: str) -> bool:
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return source.count("/") == 1
