"""What happened and why, in a rotating file beside the store: for whoever looks into a fault.

A screen or a terminal gets one sentence; the traceback behind a defect is kept here, and the sentence names the file.
The server, its workers and a run at the terminal write to one file, whose rotation holds for several processes.
"""

import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from concurrent_log_handler import ConcurrentRotatingFileHandler

from maml_core.errors import brief

LOG = logging.getLogger("maml_core")
"""The logger of the whole library; modules log to children of it."""

_MAX_BYTES = 2**20
_KEPT = 3


def log_to(path: Path, role: str, *pages: str, makes_folder: bool = True) -> None:
    """Have this process write its log to `path`, under the name of its role; to none without a folder for it.

    So do the loggers of a page's faults, `pages`, of which the terminal gets a sentence. Done once in a process; a path
    that cannot be written is passed over, since a log must never stop the work.
    """
    if any(isinstance(handler, ConcurrentRotatingFileHandler) for handler in LOG.handlers):
        return
    logging.raiseExceptions = False  # a full disk is reported where it stops the work, not by a logging traceback
    LOG.handlers[:] = [logging.NullHandler()]  # without a file, a traceback goes nowhere rather than to the terminal
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    faults: list[logging.Handler] = [_Sentence()]
    try:
        if makes_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        handler = ConcurrentRotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_KEPT, encoding="utf-8")
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {role} %(process)d: %(message)s"))
        LOG.addHandler(handler)
        faults = [handler, _Sentence(path)]
    except OSError:
        pass
    for name in pages:
        logging.getLogger(name).filters[:] = [_Faults(faults)]


class _Faults(logging.Filter):
    """Takes records of exceptions away from a logger's own handlers, whichever it is given later."""

    def __init__(self, handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._handlers = handlers

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.exc_info:
            return True
        for handler in self._handlers:
            handler.handle(record)
        return False


class _Sentence(logging.Handler):
    """Says on the terminal that a page failed, and which log has the rest.

    What a page's thread meets while Python is being taken down is no fault: by then nothing more can be imported.
    """

    def __init__(self, log: Path | None = None) -> None:
        super().__init__()
        self._where = f"; see the log {log}" if log else ""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            error = record.exc_info[1] if record.exc_info else None
            what = brief(error) if error else record.getMessage()
            if not _is_being_taken_down():
                print(f"A page failed because of a bug in the lab ({what}){self._where}.", file=sys.stderr)
        except Exception:
            self.handleError(record)


def _is_being_taken_down() -> bool:
    """Whether Python is ending: from then on no executor takes anything, and no module that has one can be imported."""
    try:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(int)
    except RuntimeError as error:
        return "shutdown" in str(error)  # and not that there is no room for another thread
    return False
