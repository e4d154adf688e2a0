"""What the layout promises, read from the source: approaches hold the approach and nothing else."""

import ast
import functools
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from common.paths import PROJECT_ROOT

APPROACHES = sorted(path.parent.name for path in PROJECT_ROOT.glob("*/config.py") if path.parent.name != "common")
PACKAGES = ("common", "dataset_generation", *APPROACHES)
FILES = sorted(path for package in PACKAGES for path in (PROJECT_ROOT / package).rglob("*.py"))
APPROACH_FILES = [path for path in FILES if path.parent.name in APPROACHES]
ENTRY_FILES = [path for path in APPROACH_FILES if path.stem in ("train", "test", "tune", "export")]


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT_ROOT))


def nodes(path: Path, *kinds: type) -> list:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds)]


def called(path: Path) -> set[str]:
    """Last names of what a file calls: ``loss.backward()`` is ``backward``."""
    functions = [node.func for node in nodes(path, ast.Call)]
    return {
        f.attr if isinstance(f, ast.Attribute) else f.id for f in functions if isinstance(f, ast.Attribute | ast.Name)
    }


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, and of what it imports from them."""
    names = {alias.name for node in nodes(path, ast.Import) for alias in node.names}
    for node in nodes(path, ast.ImportFrom):
        names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@functools.cache
def libraries() -> set[str]:
    """Names of all installed modules, less the standard library's own test package, which nothing imports."""
    return (set(sys.stdlib_module_names) - {"test"}) | set(importlib.metadata.packages_distributions())


KNOWS_ALL = {"common/registry.py", "common/benchmark.py", "common/study/plan.py", "common/study/demo.py"}

every_file = pytest.mark.parametrize("path", FILES, ids=name_of)
every_approach_file = pytest.mark.parametrize("path", APPROACH_FILES, ids=name_of)


def test_the_approaches_are_found():
    token_family = {"ldsa", "softprompt_base", "injection_bi", "injection_cross"}
    assert {"full_finetune", "glinerev", "zeroshot_baseline"} | token_family <= set(APPROACHES)
    assert len(FILES) > 50
    for approach in APPROACHES:
        files = {path.name for path in (PROJECT_ROOT / approach).glob("*.py")}
        assert {"__init__.py", "config.py", "model.py", "test.py"} <= files, approach


@every_approach_file
def test_an_approach_has_no_loop_of_its_own(path):
    assert not called(path) & {"backward", "zero_grad", "clip_grad_norm_", "AdamW", "Adam", "SGD"}
    for loop in nodes(path, ast.For, ast.While):
        target = ast.unparse(loop.target if isinstance(loop, ast.For) else loop.test)
        assert "epoch" not in target, f"line {loop.lineno}"


@every_approach_file
def test_an_approach_writes_no_file_and_has_no_metric(path):
    writing = {"open", "write_text", "write_bytes", "write", "dump", "dumps", "save", "save_file", "to_csv"}
    writing |= {"write_json", "write_json_records", "atomic_text", "atomic_path", "save_tensors"}
    assert not called(path) & writing
    assert not imported(path) & {"json", "csv", "pickle"}
    assert not [name for name in imported(path) if name.startswith(("common.metrics", "sklearn", "seqeval"))]
    functions = {node.name for node in nodes(path, ast.FunctionDef)}
    assert not [name for name in functions if any(word in name for word in ("f1", "precision", "recall", "metric"))]


@every_approach_file
def test_approaches_do_not_import_each_other(path):
    others = [name for name in APPROACHES if name != path.parent.name]
    assert not [name for name in imported(path) if name.split(".")[0] in others]


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name not in APPROACHES], ids=name_of)
def test_the_spine_knows_no_approach(path):
    if name_of(path) in KNOWS_ALL:
        pytest.skip("runs them all")
    assert not [name for name in imported(path) if name.split(".")[0] in APPROACHES]
    strings = {node.value for node in nodes(path, ast.Constant) if isinstance(node.value, str)}
    assert not strings & set(APPROACHES)


@every_file
def test_no_broad_except(path):
    for handler in nodes(path, ast.ExceptHandler):
        assert handler.type is not None, f"line {handler.lineno}"
        caught = {ast.unparse(node) for node in ast.walk(handler.type) if isinstance(node, ast.expr)}
        assert not caught & {"Exception", "BaseException"}, f"line {handler.lineno}"


@every_file
def test_nothing_asks_exits_unpickles_or_edits_the_path(path):
    calls = {ast.unparse(node.func) for node in nodes(path, ast.Call)}
    assert not calls & {"input", "exit", "quit", "eval", "exec", "torch.load", "torch.save", "os._exit"}
    if name_of(path) != "common/script.py":
        assert "sys.exit" not in calls
    assert not [call for call in calls if call.startswith("sys.path")]
    assert not imported(path) & {"pickle", "dill", "joblib", "shelve"}


@every_file
def test_nothing_runs_at_import(path):
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in ast.parse(path.read_text("utf-8")).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
        assert isinstance(node, allowed) or docstring or guard, f"line {node.lineno}"


@every_file
def test_no_path_of_a_machine(path):
    text = path.read_text("utf-8")
    assert not re.search(r"/(home|root|kaggle|content|Users)/", text)
    assert f"{PROJECT_ROOT}/" not in text


@pytest.mark.parametrize("path", ENTRY_FILES, ids=name_of)
def test_entry_scripts_are_short_and_guarded(path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 80
    last = ast.parse(source).body[-1]
    assert ast.unparse(last) == "if __name__ == '__main__':\n    run_script(main)"
    assert f"python -m {path.parent.name}.{path.stem}" in (ast.get_docstring(ast.parse(source)) or "")


@every_approach_file
def test_no_file_shadows_a_library_when_run_as_a_script(path):
    """The folder of a script is the first place where Python looks for modules."""
    assert path.stem not in libraries() - set(PACKAGES)
