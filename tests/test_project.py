"""What the project promises of itself: its layout, its imports, its README."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from maml_core.cli import build_parser
from maml_core.presets import PRESETS
from pages.components.frame import PAGES
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
TOP_LEVEL = {
    "app.py",
    "pages",
    "maml_core",
    "tests",
    "requirements.txt",
    "README.md",
    ".streamlit",
    "requirements-dev.txt",
    "pyproject.toml",
    ".ci",
    ".gitignore",
    "LICENSE",
    "CHANGELOG.md",
}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.split()


def test_top_level_is_the_agreed_one() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


@pytest.mark.parametrize("path", sorted((ROOT / "maml_core").rglob("*.py")), ids=lambda path: path.name)
def test_the_library_never_imports_streamlit(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] in ("streamlit", "pages") for name in names)


@pytest.mark.parametrize("path", [ROOT / "app.py", *(ROOT / "pages").rglob("*.py")], ids=lambda path: path.name)
def test_a_page_computes_nothing(path: Path) -> None:
    assert not re.search(r"^\s*(import|from) (torch|higher|numpy)\b", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_requirements_are_pinned_and_explained() -> None:
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name, version = line.split("==")
        assert version
        assert re.search(rf"^\| {name} \|", README, re.MULTILINE), f"the README does not say what {name} is for"


def test_readme_names_every_command_option_preset_and_page() -> None:
    commands = next(action for action in build_parser()._actions if action.dest == "command")
    for name, command in commands.choices.items():  # type: ignore[union-attr]
        assert f"python -m maml_core {name}" in README
        for action in command._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or option in README, f"{name} {option}"
    for preset in PRESETS:
        assert f"`{preset}`" in README
    for label in PAGES.values():
        assert f"**{label}**" in README


def test_readme_tree_is_the_real_one() -> None:
    tree = README.split("```text")[1].split("```")[0]
    named = re.findall(r"^\s*(\S+\.(?:py|js|toml|txt|md)|\.ci/run)\s", tree, re.MULTILINE)
    files = {Path(name).name for name in tracked()}
    for name in named:
        assert Path(name).name in files, f"{name} is in the README's tree only"
    for path in (ROOT / "maml_core").rglob("*.py"):
        assert path.name in {Path(name).name for name in named} | {"__init__.py"}, (
            f"{path.name} is not in the README's tree"
        )


def test_readme_images_exist() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file()
