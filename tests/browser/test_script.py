"""The browser's half by itself: its pure functions under node's test runner, and the one module that is sent."""

import os
import re
import shutil
import subprocess

import pytest

from maml_core.learning.own_drawings import PLACES
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
        [node, "--test", *map(str, sorted((ROOT / "tests/browser").glob("*.test.js")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("main", "pure", "names"),
    [
        ("live_chart.js", "chart_state.js", ("held", "themed", "atFrame", "edited")),
        ("drawing_board.js", "drawing_state.js", ("read", "written", "corner", "moves")),
    ],
)
def test_the_module_that_is_sent_imports_nothing_and_has_one_export(
    main: str, pure: str, names: tuple[str, ...]
) -> None:
    sent = script(main, pure)
    assert not re.findall(r"^\s*import .* from ", sent, re.MULTILINE)
    assert re.findall(r"^export .*", sent, re.MULTILINE) == [
        "export default function ({ parentElement, data, setTriggerValue }) {"
    ]
    for name in names:
        assert f"function {name}(" in sent


def test_both_halves_write_a_corner_with_the_same_characters() -> None:
    text = (ROOT / "pages/components/drawing_state.js").read_text(encoding="utf-8")
    assert re.findall(r'PLACES = "(.*)";', text) == [PLACES]
