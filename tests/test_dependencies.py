"""What the code imports is what pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from sgpo.io import installed_versions

ROOT = Path(__file__).resolve().parents[1]
OWN = {"sgpo", "research"}
# The parser that latex2sympy2_extended needs, at the release that hydra accepts.
DECLARED_FOR_ANOTHER = {"antlr4-python3-runtime"}


def distributions(requirements):
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_imported_is_declared_and_declared_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = distributions(project["dependencies"])
    optional = distributions(project["optional-dependencies"])  # each extra has the name of its package
    modules = {name for folder in OWN for path in (ROOT / folder).rglob("*.py") for name in imports(path)}
    homes = packages_distributions()
    imported = distributions(homes.get(name, [name])[0] for name in modules - OWN - sys.stdlib_module_names)
    assert imported - core - optional == set()
    assert core - imported == DECLARED_FOR_ANOTHER


def test_only_what_is_installed_has_a_version():
    assert list(installed_versions("pytest", "no-such-package-1", "numpy")) == ["pytest", "numpy"]
