"""A search whose trials lie in PostgreSQL: interrupted, gone on with, refused to another."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from spoken_world import SpokenWorld, search

from asrmerge.errors import SearchError

pytest.importorskip("psycopg", reason="needs PostgreSQL's driver: pip install 'psycopg[binary]'")


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of the server's programs, which Debian keeps out of the path."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    usable = [folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()]
    if not usable:
        pytest.skip("needs a PostgreSQL server (Debian: postgresql)")
    return usable[-1]


@pytest.fixture(scope="module")
def url(programs: Path) -> Iterator[str]:
    """Of a database in a server of its own, which listens on a socket in a temporary folder and on no port."""
    with tempfile.TemporaryDirectory(prefix="asrmerge-postgresql-") as name:
        folder = Path(name)
        user = _unprivileged()
        if user is not None:
            shutil.chown(folder, user)

        def call(program: str, *arguments: str) -> None:
            command = [str(programs / program), "--pgdata", str(folder / "data"), *arguments]
            subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        call("initdb", "--username", "asrmerge", "--auth", "trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        call("pg_ctl", "--wait", "--log", str(folder / "log"), "--options", options, "start")
        try:
            yield f"postgresql+psycopg://asrmerge@/postgres?host={folder}"
        finally:
            call("pg_ctl", "--wait", "--mode", "immediate", "stop")


def _unprivileged() -> str | None:
    """Whom the server can run as: it refuses root."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def test_an_interrupted_search_ends_as_with_a_journal(url: str, tmp_path: Path) -> None:
    found = search(SpokenWorld(), tmp_path / "journal.log")
    with pytest.raises(KeyboardInterrupt):
        search(SpokenWorld(stop=15), url)
    assert search(SpokenWorld(), url) == found
    assert search(SpokenWorld(), url) == found
    with pytest.raises(SearchError, match=r"a search with other seed .*give another database"):
        search(SpokenWorld(), url, seed=1)
