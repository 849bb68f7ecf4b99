"""The floor plan: imports point down only, pure modules know no Django, and no cycle hides inside a function."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Bottom first: a module may import from its own floor and from those below. Floor 0 knows no Django.
FLOORS = {
    "callbacks": [
        "addresses dingcrypto idleness judging keys payload routing signing",
        "composed connections endpoint fields filters models outward validators migrations.*",
        "batches chores circuit deadline due duty handover inbox lapse latecomer order outbox postgresql.* preview "
        "pruning relay rotation settling sqlite.*",
        "admin admin_* apps checks credentials display fairness feeder handlers middleware ports supervisor tasks urls "
        "views wakeup watch web worker templatetags.* management.*",
    ],
    "registrar": [
        "addresses catalogue errors failed_entries instances protocol steps",
        "calls client models transport migrations.*",
        "doctor failed_list push reconcile registration schedule watching",
        "admin apps checks management.*",
    ],
    "simulator": [
        "callback_api control dingtalk failed faults instances limits listing load messages options ports pushing "
        "receiver samples sealing server simulation styles tokens",
        "demo demo_* management.*",
    ],
    "dingcallback": ["environment", "logs settings startup", "asgi celery urls wsgi"],
}
# Which packages a package stands on.
BELOW = {
    "callbacks": {"callbacks"},
    "registrar": {"registrar", "callbacks"},
    "simulator": {"simulator", "callbacks"},
    "dingcallback": {"dingcallback", "registrar", "callbacks"},
}
# Nothing imports handlers, autodiscovery loads them; the others are commands, which nothing imports either.
ACROSS = {
    ("callbacks.handlers", "registrar.client"),
    ("callbacks.handlers", "registrar.errors"),
    ("registrar.management.*", "simulator.samples"),
    ("simulator.demo*", "dingcallback.*"),
}
# Modules with an import inside a function; the line there says why.
LATE = {"callbacks.apps", "registrar.apps", "simulator.demo"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for package in FLOORS
    for path in sorted((ROOT / package).rglob("*.py"))
}
MODULES = sorted(TREES)


def imports(name: str) -> Iterator[str]:
    """Return the modules of this project that a module imports, wherever in its text."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute here"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from {each if each in TREES else str(node.module) for each in found} & set(TREES)
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & set(TREES)


def floor(name: str) -> int:
    """Return a module's floor; a package's own `__init__.py` has no walls."""
    package, _, rest = name.partition(".")
    for number, patterns in enumerate(FLOORS[package]):
        if any(fnmatchcase(rest, pattern) or f"{rest}.*" == pattern for pattern in patterns.split()):
            return number
    assert not rest, f"{name} has no floor: put it into FLOORS, where what it may import becomes clear"
    return 0


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_only(name: str) -> None:
    package = name.partition(".")[0]
    for imported in imports(name):
        to = imported.partition(".")[0]
        allowed = any(fnmatchcase(name, one) and fnmatchcase(imported, other) for one, other in ACROSS)
        assert allowed or to in BELOW[package], f"{name} must not import {imported}: {package} does not stand on {to}"
        assert to != package or floor(imported) <= floor(name), f"{name} imports {imported}, which is above it"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_floor_and_says_what_it_is(name: str) -> None:
    floor(name)
    if ".migrations." not in name:
        assert ast.get_docstring(TREES[name]) or not TREES[name].body, f"{name} has no docstring"


def test_there_is_no_cycle() -> None:
    TopologicalSorter({name: set(imports(name)) - {name} for name in MODULES}).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_imported_inside_a_function_but_where_it_says_why(name: str) -> None:
    late = [
        node.lineno
        for function in ast.walk(TREES[name])
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not late or name in LATE, f"{name}, lines {late}: an import inside a function hides a missing floor"


def test_the_ground_floors_know_no_django() -> None:
    ground = [name for name in MODULES if "." in name and not name.startswith("dingcallback") and floor(name) == 0]
    assert {"callbacks.dingcrypto", "callbacks.payload", "callbacks.routing"} <= set(ground)
    assert {"registrar.protocol", "registrar.errors", "registrar.instances", "simulator.samples"} <= set(ground)
    for name in ground:
        program = f"import sys, {name}; sys.exit(any(n.split('.')[0] == 'django' for n in sys.modules))"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
        assert done.returncode == 0, f"{name} can't be used without Django"
