"""Who is working on a run: a process, named so that anyone on the machine can tell whether it still lives."""

import os
import socket

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


def parent_is_gone(parent: int) -> bool:
    """Whether the process that started this one has ended."""
    return os.getppid() != parent or not psutil.pid_exists(parent)
