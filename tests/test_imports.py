"""Who may know whom (design, section 2), read from the files themselves."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from potstill.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "potstill").rglob("*.py"))
}


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that a file imports, also inside functions; `from a import b` counts as a.b where that is one.

    What only type checkers import is left out.
    """
    found = set()
    tree = ast.parse(FILES[module].read_text())
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unseen = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in (node for node in ast.walk(tree) if id(node) not in unseen):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
    return frozenset(found)


def of_potstill(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "potstill"}


def others(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)} - {"potstill"} - set(sys.stdlib_module_names)


def reached(module: str) -> set[str]:
    seen, waiting = set(), [module]
    while waiting:
        for name in of_potstill(waiting.pop()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def below(*packages: str) -> list[str]:
    return [module for module in FILES if any(module == p or module.startswith(f"{p}.") for p in packages)]


def test_imports_are_read():
    assert "potstill.engine" in reached("potstill.compare")
    assert {"potstill.terms", "torch"} <= imports("potstill.engine")


@pytest.mark.parametrize("module", [m for m in below("potstill.objectives") if m != "potstill.objectives"])
def test_objectives_know_only_mathematics(module):
    allowed = {f"potstill.{name}" for name in ("types", "functional", "connectors", "memory")}
    if module == "potstill.objectives.standardised":  # a wrapper, and the two losses that it was published with
        allowed |= {"potstill.objectives.kd", "potstill.objectives.dkd"}
    if module == "potstill.objectives.mixtures":  # divergences too
        allowed |= {"potstill.objectives.divergences"}
    if module.rpartition(".")[2] in ("ab", "fsp", "ft"):  # methods of two stages say which
        allowed |= {"potstill.stages", "potstill.terms"}
    if module == "potstill.objectives.simkd":  # its student reads its own features
        allowed |= {"potstill.taps"}
    assert of_potstill(module) <= allowed
    assert others(module) <= {"torch", "jaxtyping"}


def test_one_direction():
    assert of_potstill("potstill.connectors") <= {"potstill.functional", "potstill.types"}
    assert of_potstill("potstill.functional") == set()
    assert others("potstill.functional") <= {"torch", "jaxtyping"}
    assert of_potstill("potstill.types") == {"potstill.batch"}
    assert of_potstill("potstill.batch") == set()


@pytest.mark.parametrize(
    "module", below("potstill.terms", "potstill.taps", "potstill.sources", "potstill.tasks", "potstill.objectives")
)
def test_parts_never_reach_the_engine(module):
    assert "potstill.engine" not in reached(module) | {module}


def test_nothing_imports_recipes():
    for module in FILES:
        assert not {name for name in imports(module) if name.split(".")[0] in ("recipes", "tests", "benchmarks")}


@pytest.mark.parametrize("module", FILES)
def test_a_file_over_300_lines_is_two_files(module):
    assert len(FILES[module].read_text().splitlines()) <= 300


@pytest.mark.parametrize("module", ["potstill.engine", "potstill.step", "potstill.ranks", "potstill.optim"])
def test_the_engine_knows_no_method(module):
    words = set(re.findall(r"[a-z]+", FILES[module].read_text().lower()))
    names = set(OBJECTIVES) | {kind.__name__.lower() for kind in OBJECTIVES.values()}
    assert not words & (names - {"ce", "at", "dist"})  # the preposition, and the usual name of torch.distributed


QUIET = """
import sys, time
import torch
state, threads, start = torch.get_rng_state(), torch.get_num_threads(), time.perf_counter()
import potstill
seconds = time.perf_counter() - start
assert seconds < 5, f"import potstill took {seconds:.1f} s"
assert torch.equal(state, torch.get_rng_state())
assert torch.get_num_threads() == threads
heavy = {"altair", "sklearn", "datasets", "transformers", "pandas", "matplotlib", "vl_convert"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_potstill_does_nothing_else():
    done = subprocess.run([sys.executable, "-W", "error", "-c", QUIET], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("module", FILES)
def test_no_statement_does_work_at_import(module):
    """Beside definitions, assignments and imports a module has only its docstrings."""
    tree = ast.parse(FILES[module].read_text())
    for node in tree.body:
        called = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
        loop = isinstance(node, ast.For | ast.While | ast.With | ast.Delete)
        assert not called, f"{module}, line {node.lineno}"
        assert not loop, f"{module}, line {node.lineno}"
