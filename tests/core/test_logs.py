"""What goes to the log and what to the terminal."""

import subprocess
import sys
from pathlib import Path

_FAILING_PAGE = """
import contextlib, logging, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from maml_core.logs import log_to

page = logging.getLogger("a page")
page.propagate = False
page.addHandler(logging.StreamHandler())
log_to(Path(sys.argv[1]), "server", "a page")

def fail(what):
    try:
        raise RuntimeError(what)
    except RuntimeError as error:
        page.error("Uncaught", exc_info=error)

fail("while it runs")

def outlive():
    with contextlib.suppress(RuntimeError):
        while True:
            ThreadPoolExecutor(1).submit(int).result()
    fail("while Python is taken down")

ThreadPoolExecutor(1).submit(outlive)
"""


def _end(log: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _FAILING_PAGE, str(log)], capture_output=True, text=True, check=True, timeout=300
    )


def test_a_page_that_fails_is_a_sentence_at_the_terminal_and_a_traceback_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "lab.log"
    assert _end(log).stderr == (
        f"A page failed because of a bug in the lab (RuntimeError: while it runs); see the log {log}.\n"
    )
    kept = log.read_text()
    assert kept.count("Traceback (most recent call last)") == 2
    assert "RuntimeError: while Python is taken down" in kept


def test_without_a_log_there_is_still_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = _end(tmp_path / "file" / "lab.log").stderr
    assert said == "A page failed because of a bug in the lab (RuntimeError: while it runs).\n"
