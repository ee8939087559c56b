"""What happened and why, in a rotating file beside the store: for whoever looks into a fault.

A screen or a terminal gets one sentence; the traceback behind a defect is kept here, and the sentence names the file.
The server, its workers and a run at the terminal write to one file, whose rotation holds for several processes.
"""

import logging
from pathlib import Path

from concurrent_log_handler import ConcurrentRotatingFileHandler

LOG = logging.getLogger("maml_core")
"""The logger of the whole library; modules log to children of it."""

_MAX_BYTES = 2**20
_KEPT = 3


def log_to(path: Path, role: str, *others: str) -> None:
    """Have this process write its log to `path`, under the name of its role; so do the loggers named in `others`.

    Done once in a process; a path that cannot be written is passed over, since a log must never stop the work.
    """
    if any(isinstance(handler, ConcurrentRotatingFileHandler) for handler in LOG.handlers):
        return
    logging.raiseExceptions = False  # a full disk is reported where it stops the work, not by a logging traceback
    LOG.addHandler(logging.NullHandler())  # without a file, a traceback goes nowhere rather than to the terminal
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        handler = ConcurrentRotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_KEPT, encoding="utf-8")
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {role} %(process)d: %(message)s"))
    except OSError:
        return
    for logger in (LOG, *map(logging.getLogger, others)):
        logger.addHandler(handler)
