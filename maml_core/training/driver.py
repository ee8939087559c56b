"""A search that a server drives in the background, for whoever looks at it."""

import logging
import threading
from collections.abc import Callable, Sequence

from maml_core.errors import MamlError
from maml_core.training.search import Search, Trial
from maml_core.words import loss, said

LOG = logging.getLogger(__name__)


class Driver:
    """Drives one search in a thread. With its server it ends; asked for again, the search goes on where it was."""

    def __init__(self, search: Search, ensure_workers: Callable[[], None]) -> None:
        """Begin at once; `ensure_workers` is called again and again, so that somebody trains what it queues."""
        self.search = search
        self.started_by = search.store.person.name if search.store.person else ""
        self.trials: Sequence[Trial] = ()
        self.trouble = ""  # why it ended early, in one sentence
        self._ending = threading.Event()
        self._ensure_workers = ensure_workers
        self._thread = threading.Thread(target=self._drive, name=f"search {search.name}", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it queues no more runs."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Begin no more trials; the runs of those begun are runs like any other, and go on."""
        self._ending.set()
        self._thread.join()

    def progress(self) -> str:
        """How far it has come, in a line of Markdown."""
        done = [trial for trial in self.trials if trial.state != "running"]
        text = f"{len(done)} of {self.search.trials} trials"
        if done and done[0].value is not None:
            varied = {
                name: value for name, value in done[0].settings.items() if len(self.search.spans[name].values) != 1
            }
            settings = ", ".join(f"{name} = {said(value)}" for name, value in varied.items())
            text += f"; the best so far {loss(done[0].value)} on held-out tasks, with {settings}"
        return text

    def _drive(self) -> None:
        try:
            self.search.work(self._ensure_workers, self._look, self._ending.is_set)
        except MamlError as error:
            self.trouble = str(error)
        except Exception as bug:
            LOG.exception("the search %s ended because of a bug", self.search.name)
            self.trouble = f"The search ended because of a bug in the lab ({type(bug).__name__}); see its log."

    def _look(self, search: Search) -> None:
        self.trials = search.results()
