"""What goes to the log and what to the terminal."""

import subprocess
import sys
from pathlib import Path

from streamlit import error_util
from streamlit.runtime.scriptrunner import script_runner

from maml_core.training.session import PAGE_FAULTS

_FAILING_PAGE = """
import contextlib, logging, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from maml_core.logs import log_to

page = logging.getLogger("a page")
page.propagate = False
page.addHandler(logging.StreamHandler())
log_to(Path(sys.argv[1]), "server", "a page")
page.addHandler(logging.StreamHandler())  # as Streamlit does when its settings are read anew
page.warning("no fault")

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
    assert _end(log).stderr == "no fault\n" * 2 + (
        f"A page failed because of a bug in the lab (RuntimeError: while it runs); see the log {log}.\n"
    )
    kept = log.read_text()
    assert kept.count("Traceback (most recent call last)") == 2
    assert "RuntimeError: while Python is taken down" in kept


def test_without_a_log_there_is_still_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = _end(tmp_path / "file" / "lab.log").stderr
    assert said == "no fault\n" * 2 + "A page failed because of a bug in the lab (RuntimeError: while it runs).\n"


def test_a_terminal_that_is_gone_does_not_keep_a_fault_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "lab.log"
    closed = _FAILING_PAGE.replace("def fail(what):", "sys.stderr.close()\n\ndef fail(what):")
    subprocess.run([sys.executable, "-c", closed, str(log)], capture_output=True, check=True, timeout=300)
    assert log.read_text().count("Traceback (most recent call last)") == 2


def test_the_loggers_of_a_pages_faults_are_streamlits() -> None:
    assert {module._LOGGER.name for module in (error_util, script_runner)} == set(PAGE_FAULTS)
