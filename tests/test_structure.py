"""What the layout promises beside what ruff and import-linter check: each test names all offenders at once."""

import ast
import functools
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import python

from common.paths import PROJECT_ROOT
from common.registry import APPROACHES, spec

PACKAGES = ("common", "dataset_generation", "annotation", *APPROACHES)
FILES = [
    *sorted(path for package in PACKAGES for path in (PROJECT_ROOT / package).rglob("*.py")),
    PROJECT_ROOT / "optuna_plots.py",
]
APPROACH_FILES = [path for path in FILES if path.parent in {PROJECT_ROOT / name for name in APPROACHES}]
SCRIPTS = [path for path in APPROACH_FILES if path.stem in ("train", "test", "tune", "export")]
NAMES_APPROACHES = {"common/registry.py", "common/tables/thesis.py", "common/study/demo.py"}
"""The register, the thesis's own figures, and a demonstration that chooses one."""
HEAVY = (
    "accelerate", "datasets", "gliner", "matplotlib", "pandas", "peft", "scipy", "sklearn", "torch", "transformers",
)  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def nodes(path: Path, *kinds: type) -> Iterator:
    return (node for node in ast.walk(tree(path)) if isinstance(node, kinds))


def called(path: Path) -> set[str]:
    """Last names of what a file calls: ``loss.backward()`` is ``backward``."""
    functions = [node.func for node in nodes(path, ast.Call)]
    return {f.attr for f in functions if isinstance(f, ast.Attribute)} | {
        f.id for f in functions if isinstance(f, ast.Name)
    }


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, and of what it imports from them."""
    names = {alias.name for node in nodes(path, ast.Import) for alias in node.names}
    for node in nodes(path, ast.ImportFrom):
        names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def texts(path: Path) -> list[str]:
    """A file's strings, docstrings aside."""
    documentation = {id(node.value) for node in nodes(path, ast.Expr)}
    return [
        node.value
        for node in nodes(path, ast.Constant)
        if isinstance(node.value, str) and id(node) not in documentation
    ]


def test_every_approach_has_the_same_files():
    assert set(APPROACHES) == {path.parent.name for path in PROJECT_ROOT.glob("*/spec.py")} - {"common"}
    wanted = {"__init__.py", "spec.py", "config.py", "model.py", "test.py"}
    for approach in APPROACHES:
        files = {path.name for path in (PROJECT_ROOT / approach).glob("*.py")}
        trained = {"train.py", "tune.py"} if spec(approach).trains else set()
        assert wanted | trained <= files, approach
        assert trained == files & {"train.py", "tune.py"}, approach


def test_an_approach_has_no_loop_and_no_metric_and_writes_no_file():
    calls = {"backward", "zero_grad", "clip_grad_norm_", "AdamW", "Adam", "SGD"}
    calls |= {"open", "write_text", "write_bytes", "write", "dump", "dumps", "save", "save_file", "to_csv"}
    calls |= {"write_json", "write_json_records", "atomic_text", "atomic_path", "save_tensors"}
    modules = re.compile(r"(json|csv|common\.evaluation\.metrics|sklearn|seqeval)\b")
    offenders = []
    for path in APPROACH_FILES:
        offenders += [f"{name_of(path)}: calls {name}" for name in called(path) & calls]
        offenders += [f"{name_of(path)}: imports {name}" for name in imported(path) if modules.match(name)]
        for loop in nodes(path, ast.For, ast.While):
            if "epoch" in ast.unparse(loop.target if isinstance(loop, ast.For) else loop.test):
                offenders.append(f"{name_of(path)}:{loop.lineno}: loops over epochs")
        for function in nodes(path, ast.FunctionDef):
            if re.search("f1|precision|recall|metric", function.name):
                offenders.append(f"{name_of(path)}:{function.lineno}: {function.name}")
    assert not offenders


def test_nobody_names_an_approach_but_itself():
    """That they do not import each other is import-linter's to say."""
    offenders = []
    for path in FILES:
        others = set(APPROACHES) - {path.parent.name}
        words = {word for text in texts(path) for word in re.findall(r"\w+", text)}
        if name_of(path) not in NAMES_APPROACHES and words & others:
            offenders.append(f"{name_of(path)}: {words & others}")
    assert not offenders


def test_nothing_runs_at_import():
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    offenders = []
    # The fork server has no other way to do a thing than to import a module.
    for path in (path for path in FILES if name_of(path) != "common/preload.py"):
        for node in tree(path).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
            if not (isinstance(node, allowed) or docstring or guard):
                offenders.append(f"{name_of(path)}:{node.lineno}")
    assert not offenders


def test_no_path_of_a_machine():
    place = re.compile(rf"/(home|root|kaggle|content|Users)/|{re.escape(str(PROJECT_ROOT))}/")
    assert not [name_of(path) for path in FILES if place.search(path.read_text("utf-8"))]


def test_scripts_of_an_approach_are_short_and_guarded():
    offenders = []
    for path in SCRIPTS:
        if len(path.read_text("utf-8").splitlines()) > 45:
            offenders.append(f"{name_of(path)}: more than 45 lines")
        if ast.unparse(tree(path).body[-1]) != "if __name__ == '__main__':\n    run_script(main)":
            offenders.append(f"{name_of(path)}: does not end with its guard")
        if f"python -m {path.parent.name}.{path.stem}" not in (ast.get_docstring(tree(path)) or ""):
            offenders.append(f"{name_of(path)}: does not say how it is called")
    assert not offenders


def test_extras_that_messages_and_pages_name_exist():
    """Quoted, as zsh takes brackets for a pattern; and of the checkout, as the project is in no package index."""
    extras = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    pages = [path for place in ("*.md", "*/README.md", "docs/*.md") for path in PROJECT_ROOT.glob(place)]
    named = [
        (name_of(path), text)
        for path in (*FILES, *pages)
        for text in re.findall(r"pip install (?:-e )?('?(?:\.|gliner-adaptation)\[[^\s`\"]*)", path.read_text("utf-8"))
    ]
    assert len(named) > 10
    known = re.compile(rf"'\.\[({'|'.join(extras)})(,({'|'.join(extras)}))*\]',?")
    assert not [item for item in named if not known.fullmatch(item[1])]


def test_no_file_of_an_approach_shadows_a_library():
    """A script's folder is the first place where Python looks for modules."""
    # Nothing imports the standard library's own tests.
    libraries = (set(sys.stdlib_module_names) - {"test"}) | set(importlib.metadata.packages_distributions())
    assert not [name_of(path) for path in APPROACH_FILES if path.stem in libraries - set(PACKAGES)]


@pytest.mark.slow
def test_command_lines_are_read_without_heavy_imports():
    """``--help`` and a wrong option answer at once."""
    light = [path for path in APPROACH_FILES if path in SCRIPTS or path.stem in ("config", "spec")]
    light += [path for path in FILES if path not in light and "\n    run_script(" in path.read_text("utf-8")]
    assert len(light) > 40
    names = [name_of(path).removesuffix(".py").replace("/", ".") for path in light]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    found = sorted(set({HEAVY}) & set(sys.modules))\n"
        "    assert not found, f'{name} imports {found}'\n"
    )
    done = python("-c", program, *names)
    assert done.returncode == 0, done.stderr
