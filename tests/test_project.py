"""What the project promises of itself: its layout, its imports, its README."""

import ast
import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import maml_core
from maml_core.cli import build_parser
from maml_core.presets import PRESETS
from pages.components.frame import PAGES
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TOP_LEVEL = {
    "app.py", "pages", "maml_core", "tests", "requirements.txt", "README.md", ".streamlit", "requirements-cluster.txt",
    "requirements-dev.txt",
    "pyproject.toml", ".ci", ".gitignore", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".pre-commit-config.yaml",
}  # fmt: skip  # one name a line would hide how few they are

CLI_PARTS = ("", "_adapt", "_compare", "_evaluate", "_sweep", "_tables", "_train")
FLOORS: list[set[str]] = [
    {"errors", "fields", "logs", "milestones", "processes", "words"},
    {"learning"},
    {"config", "presets", "lessons", "glossary", "engines"},
    {"store"},
    {"training", "evaluation"},
    {
        "figures",
        "bench",
        "peers",
        "cli",
        "cli_adapt",
        "cli_compare",
        "cli_sweep",
        "cli_evaluate",
        "cli_tables",
        "cli_train",
        "cli_work",
        "__main__",
    },
    {"pages", "app"},
]
"""The rooms from the ground up. A module imports from its own room and from floors below; two rooms of one floor know
nothing of each other, but for the exceptions below."""
NEIGHBORS = {
    ("fields", "errors"),
    ("logs", "errors"),
    ("presets", "config"),
    ("lessons", "config"),
    ("lessons", "presets"),
    ("glossary", "config"),
    ("cli", "bench"),
    ("cli", "peers"),
    ("bench", "peers"),
    ("cli", "cli_adapt"),
    ("cli", "cli_compare"),
    ("cli", "cli_sweep"),
    ("cli", "cli_evaluate"),
    ("cli", "cli_tables"),
    ("cli", "cli_train"),
    ("cli", "cli_work"),
    ("cli_train", "cli_tables"),
    ("__main__", "cli"),
    ("app", "pages"),
}

SOURCES = [ROOT / "app.py", *sorted((ROOT / "pages").rglob("*.py")), *sorted((ROOT / "maml_core").rglob("*.py"))]
PAGE_SOURCES = [path for path in SOURCES if "maml_core" not in path.parts]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room_of(module: str) -> str:
    """The room of a module by its dotted name."""
    parts = module.split(".")
    return parts[1] if parts[0] == "maml_core" and len(parts) > 1 else parts[0]


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.split()


def test_top_level_is_the_agreed_one() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_import_runs_upward(path: Path) -> None:
    here = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here == "__init__":  # maml_core/__init__.py only says where its names live
        return
    for module in imports(path):
        if module.split(".")[0] not in ("maml_core", "pages"):
            continue
        there = room_of(module)
        if here == there or (here, there) in NEIGHBORS:
            continue
        assert floor_of(there) < floor_of(here), f"{here} imports {module}, which is not below it"


def test_every_room_has_a_floor() -> None:
    rooms = {
        path.relative_to(ROOT / "maml_core").parts[0].removesuffix(".py")
        for path in SOURCES
        if "maml_core" in path.parts
    }
    assert rooms - {"__init__"} <= set().union(*FLOORS)


def test_the_trainer_knows_no_store_and_no_screen_and_no_command_waits_for_torchs_compiler() -> None:
    loaded = "[m for m in sys.modules if m.startswith(('maml_core.store', 'streamlit'))]"
    code = (
        f"import sys, maml_core.training.trainer; print({loaded}); import maml_core.cli; print('sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]


@pytest.mark.parametrize("path", [path for path in SOURCES if "maml_core" in path.parts], ids=name_of)
def test_the_library_never_imports_streamlit(path: Path) -> None:
    assert not any(module.split(".")[0] in ("streamlit", "pages") for module in imports(path))


PAGES_MAY_IMPORT = {
    "collections.abc", "contextlib", "dataclasses", "functools", "json", "math", "pathlib", "re", "time", "typing",
    "streamlit", "streamlit.components.v1", "streamlit.errors", "plotly", "pydantic", "pydantic.fields",
    "maml_core.config", "maml_core.errors", "maml_core.fields", "maml_core.figures", "maml_core.glossary",
    "maml_core.lessons", "maml_core.presets",
    "maml_core.words", "maml_core.learning.adaptation", "maml_core.learning.algorithms", "maml_core.learning.control",
    "maml_core.learning.fits", "maml_core.learning.generated", "maml_core.learning.own_drawings",
    "maml_core.learning.own_points",
    "maml_core.learning.fresh_rows", "maml_core.learning.fresh_tasks", "maml_core.learning.initialization",
    "maml_core.learning.image_files", "maml_core.learning.models", "maml_core.learning.own_images",
    "maml_core.learning.scale",
    "maml_core.learning.formula", "maml_core.learning.table", "maml_core.learning.table_files",
    "maml_core.learning.table_roles", "maml_core.learning.table_tasks", "maml_core.learning.tasks",
    "maml_core.evaluation.adapted", "maml_core.evaluation.compare", "maml_core.evaluation.curves",
    "maml_core.evaluation.diagnosis", "maml_core.evaluation.gradients",
    "maml_core.evaluation.listing", "maml_core.evaluation.paths", "maml_core.evaluation.published",
    "maml_core.evaluation.of_runs", "maml_core.evaluation.side_by_side", "maml_core.evaluation.toy",
    "maml_core.store.exchange", "maml_core.store.people", "maml_core.store.run", "maml_core.store.script",
    "maml_core.store.store", "maml_core.store.tables",
    "maml_core.training.search", "maml_core.training.session", "maml_core.training.sweep",
}  # fmt: skip  # a list to be read as a whole
ONLY = {
    "maml_core.learning.models": {"MODELS"},  # the form's choices; no network is built
    "maml_core.learning.algorithms": {"ALGORITHMS"},  # for their titles and formulas
    "maml_core.learning.control": {"aimed", "can_aim"},  # what the reader moves; nothing is rolled out
    "maml_core.learning.initialization": {"Initialization"},  # to pass on
    "maml_core.learning.own_images": {"training_samples"},  # what a table's tasks look like
    "maml_core.store.store": {"UNDO_SECONDS"},
    "maml_core.training.search": {"parse_search"},
}


def array_fields() -> set[str]:
    """Names of all fields that hold an array or a tensor, of the records that pages are given."""
    found: set[str] = set()
    given = [ROOT / "maml_core/learning/adaptation.py", ROOT / "maml_core/learning/initialization.py"]
    for path in [*given, *(ROOT / "maml_core/evaluation").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            for part in node.body:
                if (
                    isinstance(part, ast.AnnAssign)
                    and isinstance(part.target, ast.Name)
                    and re.search(r"\b(ndarray|Tensor|list\[float\]|Parameters)\b", ast.unparse(part.annotation))
                ):
                    found.add(part.target.id)
    return found


def test_the_list_of_array_fields_is_found() -> None:
    assert {"predictions", "query_loss", "support_y", "error"} <= array_fields()


@pytest.mark.parametrize("path", PAGE_SOURCES, ids=name_of)
def test_a_page_imports_from_a_short_list(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= PAGES_MAY_IMPORT
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            assert module in PAGES_MAY_IMPORT or module.startswith("pages.components"), module
            if module in ONLY:
                assert {alias.name for alias in node.names} <= ONLY[module]


@pytest.mark.parametrize("path", PAGE_SOURCES, ids=name_of)
def test_a_page_reads_no_array(path: Path) -> None:
    """A page passes records on; what is inside them is for the library to work out, so no arithmetic on it here."""
    arrays = array_fields() - {"error", "x"}  # also the text of an ending, and the range of a family's inputs
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            is_of_streamlit = isinstance(node.value, ast.Name) and node.value.id == "st"
            assert is_of_streamlit or node.attr not in arrays, f"line {node.lineno} reads .{node.attr}"


def test_the_public_names_are_these() -> None:
    assert maml_core.__all__ == [
        "FunctionFamily", "Initialization", "MamlError", "Normal", "RunConfig", "Store", "TaskBatch", "TaskFamily",
        "Uniform", "evaluate", "train",
    ]  # fmt: skip  # one line of names reads best
    for name in maml_core.__all__:
        thing = getattr(maml_core, name)
        assert thing.__module__.startswith("maml_core.")
        assert name in (maml_core.__doc__ or "")


@pytest.mark.parametrize(
    "name", ["FunctionFamily", "Initialization", "RunConfig", "Store", "TaskBatch", "TaskFamily", "evaluate", "train"]
)
def test_the_example_of_a_public_name_runs(name: str) -> None:
    thing = getattr(maml_core, name)
    globals_of = vars(import_module(thing.__module__))
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(globals_of))
    assert example.examples, f"the docstring of {name} has no example"
    assert doctest.DocTestRunner().run(example).failed == 0


def test_requirements_are_pinned_and_explained() -> None:
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name, version = line.split("==")
        assert version
        name = name.partition("[")[0]
        assert re.search(rf"^\| {name} \|", README, re.MULTILINE), f"the README does not say what {name} is for"


def test_readme_names_every_command_option_preset_and_page() -> None:
    commands = next(action for action in build_parser()._actions if action.dest == "command")
    assert isinstance(commands.choices, dict)
    for name, command in commands.choices.items():
        assert f"python -m maml_core {name}" in README
        for action in command._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or option in README, f"{name} {option}"
    for preset in PRESETS:
        assert f"`{preset}`" in README
    for label in PAGES.values():
        assert f"**{label}**" in README


def test_the_tree_of_the_code_is_the_real_one() -> None:
    """CONTRIBUTING.md shows every folder and module, and nothing that is not there."""
    tree = CONTRIBUTING.split("```text")[1].split("```")[0]
    named, folders = set(), [""]
    for line in tree.strip("\n").splitlines():
        depth, entry = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth + 1 :] = [folders[depth] + entry]
        if not entry.endswith("/"):
            named.add(folders[depth] + entry)
    real = {name for name in tracked() if name.endswith((".py", ".js", ".css")) and not name.startswith("tests/")}
    assert named == {name for name in real if not name.endswith("__init__.py") or name == "maml_core/__init__.py"}


def test_images_of_the_documents_exist() -> None:
    for text in (README, CONTRIBUTING):
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            assert (ROOT / path).is_file()


def test_the_readme_is_short() -> None:
    """What a user needs: its prose, without tables and code, in about a thousand words."""
    prose = re.sub(r"```.*?```|^\|.*$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) < 1200
