"""Compiling a run's loop in a process of its own: slow, at low priority, and gone when its parent is."""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext

from maml_core.config import RunConfig
from maml_core.engines import Compilation, CompileStage
from maml_core.errors import MamlError
from maml_core.learning.models import own_models, own_models_allowed
from maml_core.logs import LOG
from maml_core.processes import child_environment, when_parent_is_gone


class CompileJob:
    """A child process that puts a run's compiled loop into the cache."""

    def __init__(self, config: RunConfig) -> None:
        """Start it."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `cancel`)
        self._complained = tempfile.TemporaryFile()  # noqa: SIM115
        command = [
            sys.executable,
            "-m",
            "maml_core.training.compile_job",
            "--parent",
            str(os.getpid()),
            config.to_json(),
        ]
        self._process = subprocess.Popen(
            command + ["--own-models"] * own_models_allowed(),
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._complained,
            # One thread: more would be taken from the training that goes on meanwhile.
            env=child_environment() | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._ended: Compilation | None = None

    def status(self) -> Compilation:
        """Whether it works, has put the loop on disk, or failed."""
        if self._ended is None:
            status = self._process.poll()
            if status is None:
                return Compilation(CompileStage.WORKING)
            self._ended = self._read(status)
        return self._ended

    def _read(self, status: int) -> Compilation:
        """What the process that has ended says; what it complained of goes to the log."""
        said, complained = (
            [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            for file in (self._said, self._complained)
            if file.seek(0) == 0
        )
        if complained:
            LOG.log(
                logging.WARNING if status else logging.INFO, "a compile job said:\n%s", "\n".join(complained[-200:])
            )
        if status == 0:
            return Compilation(CompileStage.READY)
        return Compilation(
            CompileStage.FAILED, said[-1] if said else f"The compiled loop cannot be made (exit status {status})."
        )

    def cancel(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._said.close()
        self._complained.close()


def main() -> int:
    """Compile the loop of the configuration given as JSON."""
    from maml_core.training.trainer import make_engine, training_stream

    parser = argparse.ArgumentParser(prog="python -m maml_core.training.compile_job", description=main.__doc__)
    parser.add_argument("--parent", required=True, type=int)
    parser.add_argument("--own-models", action="store_true", help="load a class that the configuration names")
    parser.add_argument("config")
    arguments = parser.parse_args()
    when_parent_is_gone(arguments.parent, lambda: os._exit(1))
    if hasattr(os, "nice"):
        os.nice(10)
    try:
        config = RunConfig.from_json(arguments.config)
        with own_models() if arguments.own_models else nullcontext():
            model = config.network()
        engine = make_engine(config, model, "compiled")
        engine.prepare(training_stream(config).take(0, 1).at(0))
    except MamlError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
