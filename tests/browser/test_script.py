"""The browser's half by itself: its pure functions under node's test runner, and the one module that is sent."""

import os
import re
import shutil
import subprocess

import pytest

from pages.components.scripts import script
from tests.conftest import ROOT


def test_the_pure_functions_pass_their_own_tests() -> None:
    node = shutil.which("node")
    if node is None:
        reason = "no Node.js on this machine"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run(
        [node, "--test", "tests/browser/chart_state.test.js"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_module_that_is_sent_imports_nothing_and_has_one_export() -> None:
    sent = script("live_chart.js", "chart_state.js")
    assert not re.findall(r"^\s*import .* from ", sent, re.MULTILINE)
    assert re.findall(r"^export .*", sent, re.MULTILINE) == [
        "export default function ({ parentElement, data, setTriggerValue }) {"
    ]
    for name in ("held", "themed", "atFrame", "edited"):
        assert f"function {name}(" in sent
