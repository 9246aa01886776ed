"""The finished trials of a search, in Optuna's storage: each written at once, so a killed search loses none."""

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
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from asrmerge.errors import ConfigError, SearchError
from asrmerge.search.candidate import Candidate
from asrmerge.search.counts import SearchCounts
from asrmerge.search.objective import Counts, Judgement
from asrmerge.search.proposals import quiet
from asrmerge.search.result import Point
from asrmerge.search.space import Space, distributions

STUDY = "asrmerge"
IDENTITY = "asrmerge search"
_FIRST_BYTES = b'{"op_code":'


@dataclass(frozen=True)
class Record:
    """What was found out about a candidate: its counts, or why there are none; see :class:`~asrmerge.search.result.Trial`."""

    candidate: Candidate
    counts: Counts | None
    error: str | None = None
    heard: int | None = None
    note: str = ""
    point: Point | None = None
    seconds: float = 0.0


class History:
    """The records in a journal file, or in the database of a URL, open for one process at a time.

    Trials are added finished: there are never running ones, so nothing is stale after a kill. Any Optuna tool reads the storage.
    """

    def __init__(self, place: Path | str, identity: Mapping[str, Any], space: Space, objectives: int = 1) -> None:
        """Args:
        place: of the journal, or the URL of a database such as ``postgresql://user@host/name``.
        identity: everything that decides the course of the search; plain values.
        space: what Optuna's tools see of a trial.
        objectives: how many are minimised.
        """
        self._url = str(place) if "://" in str(place) else None
        self._path = Path(place)
        self._place = str(place)
        self._identity = json.loads(json.dumps(identity))
        self._space, self._objectives = space, objectives
        self._lock: TextIO | None = None
        self._study: optuna.Study | None = None
        self._known: dict[tuple[Any, ...], int] = {}

    def __enter__(self) -> History:
        """Open the storage, or make it.

        Raises:
            SearchError: it belongs to another search, is in use, or is no such file.
            ConfigError: a database that cannot be reached.
        """
        try:
            if self._url is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._acquire()
            with quiet():
                self._study = self._open()
            self._check_identity(self._study)
            self._known = {_key(record): number for number, record in enumerate(self.records())}
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._study = None
        self._release()

    @property
    def seconds(self) -> float:
        """How long the finished trials took."""
        return sum(record.seconds for record in self.records())

    def records(self) -> list[Record]:
        """All records, in the order in which they were added.

        Raises:
            SearchError: a trial was added by something else.
        """
        assert self._study is not None
        return [self._record(trial) for trial in self._study.get_trials(deepcopy=False)]

    def keep(self, record: Record, judgement: Judgement | None) -> None:
        """Keep a finished trial, failed where there is no ``judgement``; on disk when this returns.

        One that is there already, because the same course was interrupted, is not kept twice.
        """
        assert self._study is not None
        if _key(record) in self._known:
            return
        self._known[_key(record)] = len(self._known)
        counts = None if record.counts is None else {name: asdict(one) for name, one in record.counts.items()}
        method, parameters = self._parameters(record)
        ranges = {} if method is None else distributions(self._space.of(method))
        state = optuna.trial.TrialState.COMPLETE if judgement is not None else optuna.trial.TrialState.FAIL
        values = None if judgement is None else [judgement.objective, *judgement.further]
        if record.note and judgement is not None:
            state = optuna.trial.TrialState.PRUNED
        trial = optuna.trial.create_trial(
            state=state,
            values=values if state == optuna.trial.TrialState.COMPLETE else None,
            intermediate_values={record.heard or 0: judgement.objective} if judgement is not None and record.note else {},
            params=parameters,
            distributions={name: ranges[name] for name in parameters},
            user_attrs={
                "candidate": record.candidate.to_json(),
                "counts": counts,
                "error": record.error,
                "heard": record.heard,
                "note": record.note,
                "point": None if record.point is None else record.point.to_json(),
                "seconds": round(record.seconds, 3),
            },
        )
        with quiet():
            self._study.add_trial(trial)

    def _parameters(self, record: Record) -> tuple[str | None, dict[str, Any]]:
        """The method in whose space the candidate lies, and its place there by Optuna's names."""
        for one in self._space.methods:
            values = one.values(record.candidate)
            if values is not None and one.holds(values):
                return one.method, {f"{one.method}.{name}": value for name, value in values.items()}
        return None, {}

    def _record(self, trial: optuna.trial.FrozenTrial) -> Record:
        try:
            known = trial.user_attrs
            candidate, counts, point = Candidate.from_json(known["candidate"]), known["counts"], known["point"]
            pooled = None if counts is None else {name: SearchCounts(**one) for name, one in counts.items()}
            place = None if point is None else Point(**point)
            return Record(candidate, pooled, known["error"], known["heard"], known["note"], place, known["seconds"])
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
        storage: BaseStorage
        if self._url is not None:
            storage = _database(self._url)
        else:
            self._mend()
            try:
                storage = JournalStorage(JournalFileBackend(str(self._path), lock_obj=_Held()))
                storage.get_all_studies()
            except Exception as error:  # whatever Optuna makes of a file that is not its own
                raise self._refusal("it is no journal of a search") from error
        names = [study.study_name for study in storage.get_all_studies()]
        if names not in ([], [STUDY]):
            raise self._refusal("it holds the study of another program")
        if names:
            return optuna.load_study(storage=storage, study_name=STUDY)
        return optuna.create_study(storage=storage, study_name=STUDY, directions=["minimize"] * self._objectives)

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
        remedy = "delete the file, or give another folder" if self._url is None else "give another database"
        return SearchError(f"{self._place} cannot be continued, because {reason}: {remedy}.")


class _Held:
    """The lock that Optuna takes for each line: the history holds a stronger one already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _database(url: str) -> BaseStorage:
    try:
        return RDBStorage(url)
    except Exception as error:  # a driver that is missing, a server that does not answer, a URL that is none
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"the storage {url} cannot be opened ({why}): check the URL, and that the database's driver is installed."
        ) from error


def _key(record: Record) -> tuple[Any, ...]:
    return (record.candidate.kind == "base", record.candidate.key(), record.heard, record.error)


def _difference(stored: Any, value: Any) -> str:
    shown = f" ({json.dumps(stored, ensure_ascii=False)} there, {json.dumps(value, ensure_ascii=False)} here)"
    return shown if len(shown) <= 200 else ""
