"""A process that has imported all that a worker needs, and is copied whenever a server wants one.

Importing torch takes seconds of a processor; a copy takes hundredths. It must never compute: what has run a gradient or
touched a GPU cannot be copied. `workers` holds the server's side of it.
"""

import gc
import json
import os
import signal
import socket
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

import torch.fx.experimental.symbolic_shapes  # noqa: F401  (which torch loads at the first slope of a squared error)

from maml_core.training import worker

LOOK_SECONDS = 1.0
"""How often it looks whether its server has gone without closing the line, which a copy of the server may hold."""


def named(name: str) -> None:
    """Have `ps` and `top` tell this process from others of the same command line."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


def main() -> None:
    """Entry point of `python -m maml_core.training.nursery`, which only a server should start.

    Its argument is the server's process id, its standard input a socket. Each message is a byte with a file descriptor:
    one end of a worker's own line, on which the order stands that `workers` writes, and which takes the worker's id.
    """
    server, nursery = int(sys.argv[1]), os.getpid()
    requests = socket.socket(fileno=os.dup(0))
    requests.settimeout(LOOK_SECONDS)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    named("maml-nursery")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries ended workers
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to all of a job: its workers are to end in order before it
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # or the first collection in a copy would write to, and so duplicate, most of the memory they share
    while os.getppid() == server:
        with suppress(TimeoutError):
            message, lines, *_ = socket.recv_fds(requests, 1, 1)
            if not message:
                return
            if _fork() == 0:
                requests.close()
                _work(socket.socket(fileno=lines[0]), nursery)
            os.close(lines[0])


def _fork() -> int:
    """The new process's id, and 0 in that process; where there can be none, its line is closed, which says so."""
    with warnings.catch_warnings(), suppress(OSError):
        # Threads are here, but those of allocators and of linear algebra, which know how to be copied.
        warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
        return os.fork()
    return -1


def _work(line: socket.socket, nursery: int) -> None:
    """Be a worker, as ordered, and never return."""
    try:
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        named("maml-worker")
        told = line.makefile("rb").readline()
        try:
            line.sendall(b"%d" % os.getpid())
        except BrokenPipeError:  # its server wants no worker any more
            os._exit(0)
        order = json.loads(told)
        os.environ.clear()
        os.environ.update(order["environment"])
        with suppress(OSError):
            os.chdir(order["folder"])
        worker.main([*order["arguments"], "--parent", str(nursery)])
    except BaseException:  # here already a defect, which the worker itself cannot log
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
