"""What can be played from a report: links to audio that lies beside it, or that is copied there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from asrmerge.errors import AudioError
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.report.data import Hypotheses
from asrmerge.speech.audio import read_audio, write_audio

AUDIO_FOLDER = "audio"
LONGEST_NAME = 80  # characters, well below what file systems take


def audio_links(folder: Path, hypotheses: Hypotheses) -> dict[str, dict[str, str]]:
    """By domain and utterance, the address of its audio as seen from ``folder``, where the report lies.

    Audio that is missing, or not in ``folder`` or below it, has none. Where an utterance is a part of its file, the address names
    its seconds as a media fragment, ``#t=12.5,14``.
    """
    found: dict[str, dict[str, str]] = {}
    for domain, utterances in _utterances(hypotheses):
        links = {one.identifier: link for one in utterances if (link := _link(folder, one)) is not None}
        if links:
            found[domain] = links
    return found


def copy_audio(folder: Path, hypotheses: Hypotheses) -> dict[str, dict[str, str]]:
    """Write the utterances' audio below ``folder``, where the report lies, and return the addresses.

    ``audio/<domain>/<utterance>.flac`` is what a recogniser hears: just the utterance, mono, 16 kHz. Each file is written
    atomically. Audio that lies below ``folder`` already is only linked to; what cannot be read is left out.
    """
    domains = dict(_utterances(hypotheses))
    folders = _file_names(domains, set())
    return {
        domain: links
        for domain, utterances in domains.items()
        if (links := dict(_links_or_copies(folder, f"{AUDIO_FOLDER}/{folders[domain]}", utterances)))
    }


def _links_or_copies(folder: Path, below: str, utterances: Sequence[Hypothesis]) -> Iterator[tuple[str, str]]:
    place = (folder / below).resolve()
    originals = {path.stem.lower() for one in utterances if (path := one.audio.resolve()).parent == place}
    names = _file_names((one.identifier for one in utterances), originals)
    for one in utterances:
        link = _link(folder, one) or _copy(folder, f"{below}/{names[one.identifier]}.flac", one)
        if link is not None:
            yield one.identifier, link


def _copy(folder: Path, place: str, utterance: Hypothesis) -> str | None:
    start, duration = (0.0, None) if utterance.start is None else (utterance.start, utterance.duration)
    try:
        write_audio(folder / place, read_audio(utterance.audio, start=start, duration=duration))
    except AudioError:
        return None
    return quote(place)


def _utterances(hypotheses: Hypotheses) -> Iterator[tuple[str, tuple[Hypothesis, ...]]]:
    """Domains and their utterances, which all models share."""
    for domain, found in next(iter(hypotheses.values()), {}).items():
        yield domain, tuple(found)


def _link(folder: Path, utterance: Hypothesis) -> str | None:
    place = _below(utterance.audio, folder)
    if place is None or not utterance.audio.is_file():
        return None
    if utterance.start is None:
        return quote(place)
    return f"{quote(place)}#t={_seconds(utterance.start)},{_seconds(utterance.start + utterance.duration)}"


def _below(path: Path, folder: Path) -> str | None:
    """``path`` as seen from ``folder``, by their names, else by where links lead."""
    for one, other in ((_plain(path), _plain(folder)), (path.resolve(), folder.resolve())):
        if one.is_relative_to(other):
            return one.relative_to(other).as_posix()
    return None


def _plain(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.absolute leaves "..", Path.resolve no links)


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _file_names(names: Iterable[str], taken: set[str]) -> dict[str, str]:
    """A name for each that any file system takes, also one that does not tell ``A`` from ``a``; none of ``taken``."""
    found: dict[str, str] = {}
    taken = {*taken}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:LONGEST_NAME] or "unnamed"
        choice, number = plain, 1
        while choice.lower() in taken:
            number += 1
            choice = f"{plain}-{number}"
        taken.add(choice.lower())
        found[name] = choice
    return found
