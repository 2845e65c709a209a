"""Imports point down only, from `cli` to `errors` (the order is LAYERS below)."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sgpo"

LAYERS = [
    {"errors"},
    {"io", "progress"},
    {"columns"},
    {"problems", "prompts", "reasoning", "chat", "objective"},
    {"endpoint"},
    {"verifier"},
    {"rollouts"},
    {"evaluation", "strategies", "algorithms"},
    {"training"},
    {"report"},
    {"puzzles"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
# A string may name a module only as a logger's name or where a template loader looks: the first argument of these.
MAY_NAME_A_MODULE = ("getLogger", "get_logger", "PackageLoader")
NO_TORCH = [
    "strategies",
    "report",
    "verifier",
    "columns",
    "problems",
    "prompts",
    "reasoning",
    "chat",
    "endpoint",
    "io",
    "progress",
    "errors",
]


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    """Every `sgpo` part that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        yield from names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    part = part_of(path)
    if part == "__init__":
        return
    for name in imports_of(path):
        assert name.split(".")[0] != "research", f"{path}: the package knows nothing of research/"
        if not name.startswith("sgpo."):
            continue
        other = name.split(".")[1]
        allowed = other == part or HEIGHT[other] < HEIGHT[part]
        assert allowed, f"{path.relative_to(PACKAGE)} imports {name}"


def strings_of(path):
    """Every string of a file, without those that MAY_NAME_A_MODULE allows."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    names = {call: getattr(call.func, "attr", getattr(call.func, "id", None)) for call in calls}
    allowed = {id(call.args[0]) for call in calls if names[call] in MAY_NAME_A_MODULE}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in allowed:
            yield node.value


def is_module(name):
    """Whether `sgpo.x.y` or `sgpo.x.y:function` names a module of the package."""
    if not re.fullmatch(r"sgpo(\.\w+)+(:\w+)?", name):
        return False
    try:
        return importlib.util.find_spec(name.partition(":")[0]) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_named_in_a_string(path):
    if path != PACKAGE / "__init__.py":  # its names are resolved lazily
        assert [text for text in strings_of(path) if is_module(text)] == []


def test_a_module_in_a_string_is_seen(tmp_path):
    (tmp_path / "bad.py").write_text('import_module("sgpo.io"); check = "sgpo.puzzles.ordering:check"; x = "sgpo.none"')
    (tmp_path / "good.py").write_text('import logging; logger = logging.getLogger("sgpo.verifier")')
    found = {file: {text for text in strings_of(tmp_path / file) if is_module(text)} for file in ("bad.py", "good.py")}
    assert found == {"bad.py": {"sgpo.io", "sgpo.puzzles.ordering:check"}, "good.py": set()}


def test_the_objective_imports_torch_alone():
    for path in (PACKAGE / "objective").glob("*.py"):
        for name in imports_of(path):
            assert name.split(".")[0] in sys.stdlib_module_names | {"torch", "sgpo", "__future__"}, f"{path}: {name}"


@pytest.mark.parametrize("part", NO_TORCH)
def test_parts_that_never_import_torch(part):
    modules = [
        ".".join(("sgpo", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if part_of(path) == part
    ]
    code = f"import sys\nfor name in {modules!r}: __import__(name)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_help_of_the_command_imports_no_torch():
    code = "import sys, sgpo, sgpo.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def public_definitions():
    """The files of every public class and function at the top of a module."""
    files = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
                "_"
            ):
                files[node.name].append(str(path.relative_to(PACKAGE)))
    return files


def test_one_name_is_one_thing():
    # `check` and `import` name commands in `cli/`, which nobody imports.
    repeated = {name: files for name, files in public_definitions().items() if len(files) > 1}
    assert {name: files for name, files in repeated.items() if not files[0].startswith("cli/")} == {}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_can_be_read_at_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


@pytest.mark.parametrize(("library", "home"), [("typer", "cli"), ("sqlite3", "strategies")])
def test_a_library_has_one_home(library, home):
    users = {part_of(path) for path in PACKAGE.rglob("*.py") for name in imports_of(path) if name == library}
    assert users == {home}
