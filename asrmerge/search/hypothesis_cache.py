"""Transcripts that a search has made, by merge and utterance: what was decoded once is not decoded again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from asrmerge.files import hash_content
from asrmerge.search.candidate import Candidate


def merge_hash(candidate: Candidate) -> str:
    """Equal for candidates whose merged weights are: of the same experts, which the cache's file stands for."""
    return hash_content([candidate.kind == "base", *candidate.key()])[:20]


class HypothesisCache:
    """A file of JSON lines that only grows; each is on the disk when ``add`` returns, so that a kill loses none.

    One file is of one set of models and one set of audio, and of one way of decoding: give another file for others.
    """

    def __init__(self, path: Path | None) -> None:
        """``path``: of the file; None keeps the transcripts in memory only."""
        self._path = path
        self._texts: dict[tuple[str, str], dict[str, str]] = {}
        self._stream: BinaryIO | None = None

    def __enter__(self) -> HypothesisCache:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._read(self._path)
            self._stream = self._path.open("ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def get(self, merge: str, domain: str) -> Mapping[str, str]:
        """Identifier → text of what is known of a domain."""
        return self._texts.get((merge, domain), {})

    def add(self, merge: str, domain: str, texts: Mapping[str, str]) -> None:
        """Keep the texts of these utterances, by identifier."""
        self._texts.setdefault((merge, domain), {}).update(texts)
        if self._stream is not None:
            line = json.dumps({"merge": merge, "domain": domain, "texts": dict(texts)}, ensure_ascii=False)
            self._stream.write(line.encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def _read(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)  # a line that a power failure tore
        for line in content[:whole].splitlines():
            found = json.loads(line)
            self._texts.setdefault((found["merge"], found["domain"]), {}).update(found["texts"])
