"""Every command line in the documentation is understood by its script; nothing is run but the script's own parser."""

import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from common.errors import InputError
from common.files import write_json
from common.paths import PROJECT_ROOT

DOCUMENTS = [path for place in ("*.md", "*/README.md", "docs/**/*.md") for path in sorted(PROJECT_ROOT.glob(place))]
OTHERS = {"build", "mypy", "pip", "pytest", "ruff", "torch", "venv"}
"""Modules of others that the documentation may run."""


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Module and arguments of each ``python -m MODULE ...`` and ``python optuna_plots.py ...``, in code blocks and
    in code spans.
    """
    parts = re.split(r"(?m)^ *```.*$", text.replace("\\\n", " "))
    lines = [line for block in parts[1::2] for line in block.splitlines()]
    lines += [" ".join(span.split()) for prose in parts[::2] for span in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        for part in re.split(r" && | \| |;", re.sub(r"(^|\s)#.*", "", line)):
            found = re.match(r" *python (?:-m ([\w.]+)|(optuna_plots)\.py)(?: (.*))?$", part)
            if found and (module := found[1] or found[2]).split(".")[0] not in OTHERS:
                yield module, shlex.split(found[3] or "")


class Parsed(BaseException):
    """The last parser has understood everything that was left."""


@pytest.fixture
def problem(monkeypatch, tmp_path, capsys):
    """What is wrong with a command line, None if nothing is."""
    parse = tyro.cli

    def stop_after(*arguments, **options):
        parsed = parse(*arguments, **options)
        if options.get("return_unknown_args"):
            return parsed
        raise Parsed

    def check(module: str, arguments: list[str]) -> str | None:
        for position, argument in enumerate(arguments[:-1]):
            path = Path(arguments[position + 1])
            # A file of settings that an earlier command writes.
            if argument == "--config" and not path.is_file():
                write_json(tmp_path / path, {})
        try:
            found = (
                module if importlib.util.find_spec(module).submodule_search_locations is None else f"{module}.__main__"
            )
            importlib.import_module(found).main(arguments)
        except Parsed:
            return None
        except (InputError, ImportError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        except SystemExit:
            return capsys.readouterr().err
        return "was run without reading its command line"

    monkeypatch.setattr(tyro, "cli", stop_after)
    (tmp_path / "examples").symlink_to(PROJECT_ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return check


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT_ROOT).as_posix())
def test_commands_are_understood(document, problem):
    wrong = [
        f"{module} {shlex.join(arguments)}: {text}"
        for module, arguments in commands(document.read_text("utf-8"))
        if (text := problem(module, arguments)) is not None
    ]
    assert not wrong, "\n".join(wrong)


def test_the_commands_are_found():
    found = list(commands((PROJECT_ROOT / "README.md").read_text("utf-8")))
    assert ("dataset_generation.generate", ["--dataset", "bc5cdr"]) in found
    assert {"glinerev.train", "glinerev.test", "glinerev.tune", "common.study"} <= {name for name, _ in found}
    block = "pip install x && python -m a.c \\\n  --y 'p q' # or --z\npython -m pip list\n"
    text = f"Say `python -m a.b --x\n1` or\n\n```bash\n{block}```\n"
    assert sorted(commands(text)) == [("a.b", ["--x", "1"]), ("a.c", ["--y", "p q"])]


@pytest.mark.parametrize(
    "command",
    [
        "glinerev.train --datset bc5cdr",
        "glinerev.train --dataset bc5cdr --prompt-form linear",
        "glinerev.tune --dataset bc5cdr --trails 20",
        "common.study --dataset bc5cdr --seed 42",
        "common.compare FIRST.json",
        "optuna_plots --output figures",
        "glinerev.trian --dataset bc5cdr",
        "glinrev.train --dataset bc5cdr",
    ],
)
def test_a_misspelt_command_is_found(command, problem):
    module, *arguments = command.split()
    assert problem(module, arguments)


def test_workers_of_a_slurm_cluster_live_shorter_than_their_jobs():
    parse = pytest.importorskip("dask.utils").parse_timedelta
    text = (PROJECT_ROOT / "docs" / "study.md").read_text("utf-8")
    hours, minutes, seconds = map(int, re.search(r'walltime="(\d+):(\d+):(\d+)"', text).groups())
    assert 0 < parse(re.search(r'"--lifetime ([^"]+)"', text)[1]) < 3600 * hours + 60 * minutes + seconds
