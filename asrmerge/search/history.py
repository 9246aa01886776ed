"""The finished trials of a search, in Optuna's journal: one line each, written at once, so a killed search loses none."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from asrmerge.errors import SearchError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.candidate import SUM, Candidate
from asrmerge.search.objective import Counts
from asrmerge.search.proposals import quiet

STUDY = "asrmerge"
IDENTITY = "asrmerge search"
_FIRST_BYTES = b'{"op_code":'


@dataclass(frozen=True)
class Record:
    """What was found out about a candidate: its counts, or why there are none."""

    candidate: Candidate
    counts: Counts | None
    error: str | None = None


class History:
    """The records in a journal file, open for one process at a time.

    Trials are added finished: there are never running ones, so nothing is stale after a kill. Any Optuna tool reads the file.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], bounds: tuple[float, float]) -> None:
        """Args:
        identity: everything that decides the course of the search; plain values.
        bounds: of the coefficients.
        """
        self._path = path
        self._identity = json.loads(json.dumps(identity))
        self._distribution = optuna.distributions.FloatDistribution(*bounds)
        self._lock: TextIO | None = None
        self._study: optuna.Study | None = None

    def __enter__(self) -> History:
        """Open the file, or make it.

        Raises:
            SearchError: it belongs to another search, is in use, or is no such file.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._acquire()
            with quiet():
                self._study = self._open()
            self._check_identity(self._study)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._study = None
        self._release()

    def records(self) -> list[Record]:
        """All records, in the order in which they were added.

        Raises:
            SearchError: a trial was added by something else.
        """
        assert self._study is not None
        return [self._record(trial) for trial in self._study.get_trials(deepcopy=False)]

    def add(self, record: Record, objective: float | None) -> None:
        """Keep a finished trial, failed where ``objective`` is ``None``; one line of the journal, on disk when this returns."""
        assert self._study is not None
        counts = None if record.counts is None else {name: asdict(one) for name, one in record.counts.items()}
        candidate = record.candidate
        coefficients = candidate.point(SUM) or candidate.model_weights() or {}
        inside = all(self._distribution._contains(value) for value in coefficients.values())
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL if objective is None else optuna.trial.TrialState.COMPLETE,
            value=objective,
            params=coefficients if inside else {},
            distributions=dict.fromkeys(coefficients, self._distribution) if inside else {},
            user_attrs={"candidate": record.candidate.to_json(), "counts": counts, "error": record.error},
        )
        self._study.add_trial(trial)

    def _record(self, trial: optuna.trial.FrozenTrial) -> Record:
        try:
            candidate = Candidate.from_json(trial.user_attrs["candidate"])
            counts = trial.user_attrs["counts"]
            known = None if counts is None else {name: ErrorCounts(**one) for name, one in counts.items()}
            return Record(candidate, known, trial.user_attrs["error"])
        except (KeyError, TypeError) as error:
            raise self._refusal(f"its trial {trial.number} was not written by asrmerge") from error

    def _acquire(self) -> None:
        # Held by the process, so it goes with it; Optuna's own lock files outlive a kill by half a minute.
        self._lock = self._path.with_name(f"{self._path.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SearchError(f"{self._path} is in use by another search: wait for it, or give another folder.") from error

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _open(self) -> optuna.Study:
        self._mend()
        try:
            storage = JournalStorage(JournalFileBackend(str(self._path), lock_obj=_Held()))
            names = [study.study_name for study in storage.get_all_studies()]
        except Exception as error:  # whatever Optuna makes of a file that is not its own
            raise self._refusal("it is no journal of a search") from error
        if names not in ([], [STUDY]):
            raise self._refusal("it holds the study of another program")
        if names:
            return optuna.load_study(storage=storage, study_name=STUDY)
        return optuna.create_study(storage=storage, study_name=STUDY, direction="minimize")

    def _mend(self) -> None:
        """Cut off a last line that a power failure tore; nothing in a file that is not a journal."""
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        if content and not (content.startswith(_FIRST_BYTES) or _FIRST_BYTES.startswith(content)):
            raise self._refusal("it is no journal of a search")
        if not content.endswith(b"\n"):
            os.truncate(self._path, content.rfind(b"\n") + 1)

    def _check_identity(self, study: optuna.Study) -> None:
        stored = study.user_attrs.get(IDENTITY)
        if stored is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(IDENTITY, self._identity)
            return
        if not isinstance(stored, dict):
            raise self._refusal("its study does not say which search it is")
        for name, value in self._identity.items():
            if stored.get(name) != value:
                raise self._refusal(f"it belongs to a search with other {name}{_difference(stored.get(name), value)}")

    def _refusal(self, reason: str) -> SearchError:
        return SearchError(f"{self._path} cannot be continued, because {reason}: delete the file, or give another folder.")


class _Held:
    """The lock that Optuna takes for each line: the history holds a stronger one already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _difference(stored: Any, value: Any) -> str:
    shown = f" ({json.dumps(stored, ensure_ascii=False)} there, {json.dumps(value, ensure_ascii=False)} here)"
    return shown if len(shown) <= 200 else ""
