import os

import pytest

from maml_core.bench import ENGINE_NAMES, _Process
from maml_core.config import RunConfig


@pytest.mark.slow
def test_a_measuring_process_answers(small_config: RunConfig) -> None:
    for name in ENGINE_NAMES:
        process = _Process(small_config, name, dict(os.environ))
        assert process.ask()["ready_seconds"] > 0
        answer = process.ask("go")
        assert answer["rate"] > 0
        assert answer["peak_mib"] > 50
        process.end()
