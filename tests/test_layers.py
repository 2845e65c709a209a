"""Imports point down only, from `cli` to `errors` (the order is LAYERS below)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sgpo"

LAYERS = [
    {"errors"},
    {"io"},
    {"problems", "prompts", "reasoning", "endpoint", "objective"},
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
NO_TORCH = ["strategies", "report", "verifier", "problems", "prompts", "reasoning", "endpoint", "io", "errors"]


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
