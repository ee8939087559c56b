"""Workers that Ray places on a cluster's machines, supervises and starts again where one is lost.

The store alone says what is true of a run: a worker takes from it what is queued, as everywhere. Ray ships the
library's code to the machines, and nothing else: no row of a table, no password in a text that it shows.
"""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maml_core.errors import ConfigError
from maml_core.processes import child_environment
from maml_core.store.store import Store
from maml_core.training.devices import software

if TYPE_CHECKING:
    import ray

END_SECONDS = 30.0
"""What workers are given to commit and give back what they train."""


class RayFleet:
    """As many workers as asked for, on a running cluster ($RAY_ADDRESS, or this machine's) or on one begun here."""

    def __init__(self, store: Store, jobs: int | None) -> None:
        """Reach the cluster; `jobs` None is one for each of its processors.

        Raises:
            ConfigError: Ray is not installed, the cluster cannot be reached, or its machines cannot reach the store.
        """
        self._ray = _ray()
        self.store = store
        try:
            self._ray.init(
                num_cpus=None if _is_running() else jobs,
                runtime_env={"py_modules": [str(Path(__file__).parents[1])]},
                include_dashboard=None if _is_running() else False,
                logging_level="ERROR",
                log_to_driver=False,
            )
        except Exception as error:  # Ray's own errors share no base with those of its transport
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ConfigError(
                f"The Ray cluster cannot be reached ({reason}): see RAY_ADDRESS and RAY_AUTH_MODE, or leave them "
                "away for one on this machine."
            ) from None
        self.limit = jobs or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        machines = [node for node in self._ray.nodes() if node["Alive"]]
        if not store.database.is_shared and len(machines) > 1:
            self._ray.shutdown()
            raise ConfigError(
                f"store = {store.database.name} is a file of this machine, which the {len(machines) - 1} other "
                "machines of the cluster do not reach: name a database on a server, such as --store "
                "postgresql://USER@HOST/DATABASE."
            )
        self._task = self._ray.remote(num_cpus=1, max_retries=-1)(_work)
        self._working: list[ray.ObjectRef[Any]] = []

    def ensure_workers(self) -> None:
        """See to it that there are as many as asked for, on machines whose software is that of this one.

        Raises:
            ConfigError: it is not.
        """
        done, self._working = self._ray.wait(self._working, num_returns=len(self._working), timeout=0)
        for complaint in filter(None, self._ray.get(done)):
            raise ConfigError(complaint)
        while len(self._working) < self.limit:
            self._working.append(self._task.remote(self.store.url, self.store.database.name, software()))

    def close(self) -> None:
        """End the workers, which give back what they train, and leave the cluster."""
        for reference in self._working:
            self._ray.cancel(reference, force=False, recursive=False)
        if self._working:
            self._ray.wait(self._working, num_returns=len(self._working), timeout=END_SECONDS)
        self._ray.shutdown()


def _work(url: str, name: str, asked_with: str) -> str:
    """A worker beside one of Ray's processes, which is its parent; what keeps it from being started, if anything."""
    if software() != asked_with:
        return (
            f"The machine {platform.node()} has {software()}, and the one that asks has {asked_with}: their numbers "
            "would differ. Install the same on both."
        )
    command = [sys.executable, "-m", "maml_core.training.worker", "--store", name, "--parent", str(os.getpid())]
    worker = subprocess.Popen(
        [*command, "--fleet"], env=child_environment() | {"MAML_STORE": url}, stdin=subprocess.DEVNULL
    )
    try:
        while worker.poll() is None:
            threading.Event().wait(0.2)  # Ray interrupts Python, not a system call
    finally:
        worker.terminate()
        worker.wait()
    return ""


def _is_running() -> bool:
    return bool(os.environ.get("RAY_ADDRESS")) or Path("/tmp/ray/ray_current_cluster").exists()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machines unasked
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--on ray needs Ray, which is not installed: pip install -r requirements-cluster.txt."
        ) from None
    return ray
