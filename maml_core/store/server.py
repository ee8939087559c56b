"""A database on a PostgreSQL server, which several machines share: how it is connected to, and its troubles.

A machine that is lost must hold nobody up, so the server ends transactions that stand still, waiting for a lock ends,
and a connection that nobody answers on is given up within seconds. What another machine's clock says is never asked:
leases are counted by the database's own, and begin anew where it was restarted.
"""

import hashlib
import re
from typing import Any

import sqlalchemy as sa

from maml_core.errors import StoreAwayError, StoreError

DRIVER = "postgresql+psycopg"

ENGINE_OPTIONS: dict[str, Any] = {
    "isolation_level": "READ COMMITTED",  # whatever the server's default is: compare-and-set is all that is needed
    "pool_pre_ping": True,
    "pool_size": 1,  # a hundred workers are as many connections as a server allows unless told otherwise
    "max_overflow": 15,
    "connect_args": {
        "connect_timeout": 10,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
        "client_encoding": "utf8",
        "prepare_threshold": None,  # sent apart from its statement, a large state would count as standing still
        "application_name": "maml_lab",
    },
}
LIMITS = "SET lock_timeout = '15s'; SET idle_in_transaction_session_timeout = '10s'"
"""Said to each new connection: as part of the URL they would displace what a user has put there."""

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
    "not permitted to log in": "the server's role may not do that: have it granted",
    "sslmode": "see what the URL says of SSL",
    "SSL": "see what the URL says of SSL",
    "too many": "the server has no connection left: end other programs, or raise its max_connections",
}
"""By what an error says, of those that come without a SQLSTATE."""

_BY_STATE = {
    "53100": "the server's disk is full; free some space and resume",
    "42501": "the server's role may not do that: have it granted",
}
"""By its SQLSTATE, where there is one: what a server says depends on its language."""

_LASTING = [sign for sign in _REMEDIES if sign != "too many"]


def is_server(url: str) -> bool:
    """Whether a URL is that of a database on a server."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme.lower().split("+")[0] in ("postgresql", "postgres")


def with_driver(url: str) -> str:
    """The URL with the one driver that the lab uses."""
    return f"{DRIVER}://{url.split('://', 1)[1]}"


def shown(url: str) -> str:
    """A URL as texts, logs and process lists may have it: without its password."""
    url = re.sub(r"(://[^/:]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(password=)[^&]*", r"\1***", url)


def trouble(url: str, error: sa.exc.DBAPIError) -> StoreError:
    """What is wrong with the database, in one sentence."""
    state = getattr(error.orig, "sqlstate", None)
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()] or ["no reason given"]
    reason = shown(next((line for line in lines if any(sign in line for sign in _REMEDIES)), lines[0]))
    is_lost = state is None and isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    is_passing = is_lost and not any(sign in reason for sign in _LASTING)
    if is_passing or error.connection_invalidated or any((state or "").startswith(begin) for begin in _PASSING):
        remedy = _REMEDIES["too many"] if "too many" in reason else "see that its server runs, and try again"
        return StoreAwayError(f"The store {shown(url)} cannot be reached ({reason}): {remedy}.")
    known = (remedy for sign, remedy in _REMEDIES.items() if sign in reason)
    remedy = _BY_STATE.get(state or "") or next(known, "")
    return StoreError(f"The store {shown(url)} cannot be used ({reason}){f': {remedy}' if remedy else ''}.")


def limit(connection: Any, _record: Any) -> None:
    """Have a new connection hold nobody up."""
    with connection.cursor() as cursor:
        cursor.execute(LIMITS)
    connection.commit()


def check_encoding(name: str, connection: sa.Connection) -> None:
    """Refuse a database that cannot keep every text.

    Raises:
        StoreError: its encoding is not UTF-8.
    """
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        raise StoreError(
            f"The store {name} cannot be used (its encoding is {encoding}): have it made with ENCODING 'UTF8' TEMPLATE "
            "template0."
        )


def lock_number(purpose: str) -> int:
    """The advisory lock of those who do the same thing, of whom one at a time may."""
    return int.from_bytes(hashlib.sha256(f"maml lab: {purpose}".encode()).digest()[:8], "big", signed=True)
