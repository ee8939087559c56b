"""Who is working on a run: a process, named so that anyone on the machine can tell whether it still lives."""

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def this_process() -> str:
    """The owner string of the current process: where it is, process id, and start time against reused ids."""
    return name_of(psutil.Process())


def name_of(process: psutil.Process) -> str:
    """A process of this machine, as `this_process` names the current one."""
    return f"{_here()}:{process.pid}:{_started(process)}"


def _started(process: psutil.Process) -> str:
    """When a process was started, by a clock that nobody sets: on Linux in ticks since the machine was."""
    try:
        status = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        return status.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return f"{process.create_time():.2f}"


@functools.cache
def _here() -> str:
    """The machine and its set of process ids: two containers may share a name, and one machine may hold both."""
    marks = [socket.gethostname()[:60]]
    with contextlib.suppress(OSError):  # on Linux alone
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8])
        marks.append(os.readlink("/proc/self/ns/pid").strip("pid:[]"))
    return "/".join(marks)


def is_alive(owner: str) -> bool | None:
    """Whether that process lives; None if it is on another machine, where only its lease can tell."""
    host, pid, created = owner.rsplit(":", 2)
    if host != _here():
        return None
    try:
        process = psutil.Process(int(pid))
        same = _started(process) == created
        return same and process.status() != psutil.STATUS_ZOMBIE
    except ValueError:
        return False
    except psutil.NoSuchProcess:
        return None if _is_hidden(int(pid)) else False
    except psutil.AccessDenied:
        return True


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process of somebody else's, which /proc does not show on some machines."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def child_environment() -> dict[str, str]:
    """The environment for a process of this project: it finds the project wherever this one was started from."""
    root = Path(__file__).parent.parent
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def when_parent_is_gone(parent: int, act: Callable[[], object]) -> None:
    """Call `act` in a thread of its own once the process that started this one has ended."""

    def watch() -> None:
        while os.getppid() == parent and psutil.pid_exists(parent):
            time.sleep(0.1)
        act()

    threading.Thread(target=watch, daemon=True).start()
