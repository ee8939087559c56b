"""A database on a PostgreSQL server, which several machines share: how it is connected to, and its troubles.

A machine that is lost must hold nobody up, so the server ends transactions that stand still, waiting for a lock ends,
and a connection that nobody answers on is given up within seconds. What another machine's clock says is never asked:
leases are counted by the database's own, and begin anew where it was restarted.
"""

import re
from typing import Any

import sqlalchemy as sa

from maml_core.errors import StoreAwayError, StoreError

DRIVER = "postgresql+psycopg"
NAMES = ("postgresql", "postgres", DRIVER)
"""How its URLs may begin."""

ENGINE_OPTIONS: dict[str, Any] = {
    "isolation_level": "READ COMMITTED",  # whatever the server's default is: compare-and-set is all that is needed
    "pool_pre_ping": True,
    "pool_size": 2,  # of a hundred workers, each has one thread that trains and one that says so
    "max_overflow": 14,
    "connect_args": {
        "connect_timeout": 10,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
        "options": "-c lock_timeout=15s -c idle_in_transaction_session_timeout=10s",
        "application_name": "maml_lab",
    },
}

OPENING = 5_108_190_416
"""The advisory lock of whoever opens a store, so that of several first openers one makes the tables."""

NOW = sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Float)
"""Seconds since the epoch by the database's clock."""

STARTED = sa.cast(sa.func.extract("epoch", sa.func.pg_postmaster_start_time()), sa.Float)
"""When the server was started, likewise."""

_PASSING = {
    "08",  # a connection that broke
    "53300",  # too many connections
    "57P",  # it is being shut down, or is not up yet
    "25P03",  # a transaction that stood still was ended
    "55P03",  # a lock that was waited for too long
    "40",  # two transactions in each other's way
}
"""What the SQLSTATEs begin with of troubles that waiting may mend (postgresql.org/docs, appendix A)."""

_REMEDIES = {
    "authentication failed": "check the name and the password in the URL, or in ~/.pgpass",
    "no password supplied": "give a password in the URL or in ~/.pgpass",
    "pg_hba": "the server does not let this machine in: have it allowed there",
    "does not exist": "have it made on the server, or choose another with --store or MAML_STORE",
    "permission denied": "the server's role may not do that: have it granted",
    "No space left": "the server's disk is full; free some space and resume",
}
_LASTING = ("authentication failed", "no password supplied", "pg_hba", "does not exist")


def is_server(url: str) -> bool:
    """Whether a URL is that of a database on a server."""
    return url.split("://", 1)[0] in NAMES


def with_driver(url: str) -> str:
    """The URL with the one driver that the lab uses."""
    return f"{DRIVER}://{url.split('://', 1)[1]}"


def shown(url: str) -> str:
    """A URL as texts, logs and process lists may have it: without its password."""
    url = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(password=)[^&]*", r"\1***", url)


def trouble(url: str, error: sa.exc.DBAPIError) -> StoreError:
    """What is wrong with the database, in one sentence."""
    state = getattr(error.orig, "sqlstate", None)
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()] or ["no reason given"]
    reason = shown(next((line for line in lines if any(sign in line for sign in _REMEDIES)), lines[0]))
    is_lost = state is None and isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    is_passing = is_lost and not any(sign in reason for sign in _LASTING)
    if is_passing or error.connection_invalidated or any((state or "").startswith(begin) for begin in _PASSING):
        return StoreAwayError(
            f"The store {shown(url)} cannot be reached ({reason}): see that its server runs, and try again."
        )
    for sign, remedy in _REMEDIES.items():
        if sign in reason:
            return StoreError(f"The store {shown(url)} cannot be used ({reason}): {remedy}.")
    return StoreError(f"The store {shown(url)} cannot be used ({reason}).")
