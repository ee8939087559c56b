"""A PostgreSQL server of the tests' own, on loopback or in another network."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from tests.lab import free_port

PASSWORD = "open-sesame-7"

_SETTINGS = "fsync=off", "shared_buffers=16MB", "max_connections=200"


class Postgres:
    """A cluster in a folder of its own."""

    def __init__(self, folder: Path | None = None, log_folder: Path | None = None, within: Sequence[str] = ()) -> None:
        """All of it in one folder, and what it writes ahead of its tables in another, where they are given.

        `within` is what a command begins with that is to run in another network: there the server listens at all
        addresses, and from here it is reached through its folder.
        """
        self._is_elsewhere = bool(within)
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        found = shutil.which("initdb") or (programs[-1] if programs else None)
        if found is None:
            reason = "no PostgreSQL on this machine"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        self._bin = Path(found).parent
        self.folder = folder or Path(tempfile.mkdtemp(prefix="maml-postgres-"))
        self._as = list(within)
        if os.geteuid() == 0:  # the server refuses to be run by root
            owner = pwd.getpwnam("postgres")
            for own in filter(None, (self.folder, log_folder)):
                os.chown(own, owner.pw_uid, owner.pw_gid)
            self._as += ["runuser", "-u", "postgres", "--"]
        self.port = free_port()
        secret = self.folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        secret.chmod(0o644)
        options = ["-D", str(self.data), "-U", "lab", "-A", "scram-sha-256", f"--pwfile={secret}", "-N"]
        if log_folder is not None:
            options.append(f"--waldir={log_folder / 'wal'}")
        self._run("initdb", *options)
        listens = f"listen_addresses='{'*' if within else '127.0.0.1'}'"
        settings = "\n".join((*_SETTINGS, listens, f"port={self.port}", f"unix_socket_directories='{self.folder}'", ""))
        self._run_in("bash", "-c", f"cat >> {self.data}/postgresql.conf", text=settings)
        self._run_in("bash", "-c", f"echo host all all samenet scram-sha-256 >> {self.data}/pg_hba.conf")
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", "120", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "-t", "120", "stop")

    def url(self, name: str) -> str:
        if self._is_elsewhere:
            return f"postgresql://lab:{PASSWORD}@/{name}?host={self.folder}&port={self.port}"
        return self.url_at("127.0.0.1", name)

    def url_at(self, address: str, name: str) -> str:
        return f"postgresql://lab:{PASSWORD}@{address}:{self.port}/{name}"

    def new_database(self, name: str = "") -> str:
        """The URL of an empty one."""
        name = name or f"lab_{secrets.token_hex(4)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """The first value that a statement answers with."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            done = connection.execute(statement)
            row = done.fetchone() if done.description else None
        return str(row[0]) if row else ""

    def close(self) -> None:
        subprocess.run(
            [*self._as, str(self._bin / "pg_ctl"), "-D", str(self.data), "-m", "immediate", "stop"],
            capture_output=True,
            check=False,
            cwd="/",
        )
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> str:
        return self._run_in(str(self._bin / program), *arguments)

    def _run_in(self, *command: str, text: str = "") -> str:
        with tempfile.TemporaryFile("w+") as output:  # a server that is started keeps a pipe open
            done = subprocess.run(
                [*self._as, *command],
                input=text,
                stdout=output,
                stderr=output,
                text=True,
                check=False,
                cwd="/",
                env=os.environ | {"PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"},
            )
            output.seek(0)
            said = output.read()
        assert done.returncode == 0, said
        return said.strip()


def postgres_server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()
