"""The layers of the package hold: cli -> daemon -> fuse -> vfs -> writeback -> data -> store, imports go right only."""

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "s3mount"

LAYERS = ("store", "data", "writeback", "vfs", "fuse", "daemon", "cli")
"""From the right to the left; a module may import its own layer and those before it."""

LEAVES = {"s3mount": set[str](), "errors": set[str](), "config": {"errors"}}
"""Anyone may import them; they import these of ours."""

SIDES = {
    # Beside the layers: each with what it may import of ours, and who may import it.
    "fstab": ({"errors", "settings", "words"}, {"cli"}),
    "settings": ({"config", "errors", "words"}, {"cli", "fstab"}),
    "words": ({"config"}, {"cli", "fstab", "settings"}),
    "control": ({"config", "errors", "kernel", "store", "data", "underway", "vfs", "writeback"}, {"cli", "daemon"}),
    "preflight": ({"allowance", "config", "errors", "kernel"}, {"cli", "daemon"}),
    "allowance": ({"config", "kernel"}, {"daemon", "preflight"}),
    "kernel": ({"config", "errors"}, {"allowance", "control", "daemon", "draining", "preflight", "stopping"}),
    "background": ({"errors"}, {"daemon"}),
    "instance": ({"config", "errors"}, {"cli", "daemon"}),
    "logs": ({"config", "errors"}, {"inside"}),
    "metrics": ({"config", "errors", "heartbeat"}, {"inside"}),
    "calls": (set[str](), {"fuse", "daemon", "inside"}),
    "inside": ({"calls", "config", "errors", "heartbeat", "logs", "metrics"}, {"daemon", "stopping"}),
    "stopping": ({"config", "draining", "errors", "inside", "kernel", "notify", "vfs"}, {"daemon"}),
    "turns": (set[str](), {"daemon"}),
    "drain": (set[str](), {"draining"}),
    "draining": ({"drain", "errors", "kernel", "vfs"}, {"daemon", "stopping"}),
    "garbage": (set[str](), {"daemon"}),
    "underway": (set[str](), {"control", "daemon", "fuse"}),
    "heartbeat": (set[str](), {"daemon", "inside", "notify", "metrics"}),
    "notify": ({"heartbeat"}, {"daemon", "stopping"}),
}

PURE = (
    "vfs.attributes",
    "vfs.keys",
    "vfs.mediatypes",
    "vfs.metadata",
    "writeback.aliases",
    "writeback.joining",
    "writeback.ledger",
    "writeback.metas",
    "writeback.needed",
    "writeback.operations",
    "writeback.order",
    "writeback.overlay",
    "writeback.pending",
    "writeback.records",
    "writeback.references",
    "writeback.slices",
    "data.belief",
    "data.extents",
    "data.grid",
    "data.journal",
    "data.lanes",
    "data.patience",
    "data.pieces",
    "data.plan",
    "data.readahead",
    "data.streams",
    "data.windows",
    "store.signature",
    "store.listing",
)
IMPURE_LIBRARIES = {"trio", "pyfuse3", "pycurl", "boto3"}

HOLDERS = {
    "pyfuse3": lambda name: name in ("fuse", "daemon"),
    "boto3": lambda name: top(name) == "store",
    "botocore": lambda name: top(name) == "store",
    "pycurl": lambda name: top(name) == "store",
    "prometheus_client": lambda name: top(name) == "metrics",
}


def top(name: str) -> str:
    return name.partition(".")[0]


@cache
def modules() -> dict[str, frozenset[str]]:
    """Every module of the package, without the package's name, and the full names of all it imports, anywhere in it."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or PACKAGE
        found[name] = frozenset(imported(ast.parse(path.read_text())))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(name: str) -> set[str]:
    """The modules of the package that a module imports; `from s3mount.data import file` is data.file."""
    found = set()
    for full in modules()[name]:
        if top(full) == PACKAGE:
            rest = full.removeprefix(PACKAGE).removeprefix(".")
            while rest and rest not in modules():
                rest = rest.rpartition(".")[0]  # the name of a thing in a module
            found.add(rest or PACKAGE)
    return found - {name}


def libraries(name: str) -> set[str]:
    return {top(full) for full in modules()[name]} - {PACKAGE}


def closure(name: str) -> set[str]:
    """A module and all of ours that importing it may bring along."""
    reached, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += ours(module)
    return reached


def test_every_module_has_a_place() -> None:
    unknown = {name for name in modules() if top(name) not in {*LAYERS, *LEAVES, *SIDES}}
    assert not unknown


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_right_only(name: str) -> None:
    allowed = set(LEAVES)
    if name in LEAVES:
        allowed = LEAVES[name]
    elif top(name) in SIDES:
        allowed = {top(name), *SIDES[top(name)][0]}
    else:
        allowed |= set(LAYERS[: LAYERS.index(top(name)) + 1])
        allowed |= {side for side, (_, users) in SIDES.items() if name in users}
    # A package's own name is what `import s3mount` reads the version from.
    assert {top(other) for other in ours(name)} - allowed - {PACKAGE} == set()


@pytest.mark.parametrize("library", sorted(HOLDERS))
def test_a_library_stays_in_its_layer(library: str) -> None:
    users = {name for name in modules() if library in libraries(name)}
    assert {name for name in users if not HOLDERS[library](name)} == set()


@pytest.mark.parametrize("name", PURE)
def test_pure_files_import_no_library_that_waits(name: str) -> None:
    brought = {library for module in closure(name) for library in libraries(module)}
    assert brought & IMPURE_LIBRARIES == set()


def test_no_import_cycles() -> None:
    for name in modules():
        for other in ours(name):
            assert other == PACKAGE or name not in closure(other), f"{name} and {other} import each other"


def test_every_library_is_a_declared_dependency() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    declared = {found[0].replace("-", "_") for line in lines if (found := re.match(r"[a-z0-9-]+", line))}
    used = {library for name in modules() for library in libraries(name)}
    used -= {*sys.stdlib_module_names, "tomllib"}
    assert used - declared - {"botocore"} == set()  # boto3 is a thin face of botocore and requires it
    assert declared - used == set()
