"""Who is working on a run: a process, named so that anyone on the machine can tell whether it still lives."""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def this_process() -> str:
    """The owner string of the current process: host, process id, and start time against reused ids."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def is_alive(owner: str) -> bool | None:
    """Whether that process lives; None if it is on another machine, where only its heartbeat can tell."""
    host, pid, created = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(pid))
        same = f"{process.create_time():.2f}" == created
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False
    except psutil.AccessDenied:
        return True


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
