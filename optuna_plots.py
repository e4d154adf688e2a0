"""Figures of Optuna studies for print.

``python optuna_plots.py STUDY.db|STUDY.json`` draws one study, ``python optuna_plots.py --config FILE.json`` several,
each with its own settings; other options on the command line win over the file's. FILE.json is an object with a list
``studies`` of objects, whose settings are the long options with ``_`` for ``-``; settings beside the list hold for all
of its studies. Paths in the file are relative to its folder.

Studies come from any Optuna storage (an SQLite file, a journal, a database's URL), which is only read, or from JSON
files with the trials in ``all_trials`` or ``trials``: see ``common.sweeps``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from common.config import from_dict, parse, require
from common.errors import InputError
from common.files import read_json
from common.paths import check_name
from common.script import run_script

# Optuna and matplotlib are slow to import: that waits until a study is read.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from common.sweeps.figures import View

logger = logging.getLogger(__name__)

Format = Literal["pdf", "png"]
MAX_PARAMETERS = 8
"""Parameters in a summary, at most."""


@dataclass(frozen=True)
class FigureSet:
    """Figures of one study."""

    study: Annotated[str | None, tyro.conf.Positional] = None
    """SQLite file, JSON file, Optuna journal (.log, .journal) or storage URL."""
    study_name: str | None = None
    """Study to draw, if the storage holds several."""
    title: str | None = None
    """Name in the figures; if not given, the study's own."""
    metric: Annotated[str | None, tyro.conf.arg(aliases=["-m"])] = None
    """Axis label of the objective; if not given, the study's metric name, or its user attribute "metric"."""
    direction: Literal["minimize", "maximize"] | None = None
    """Which values are better, for a JSON study that does not say."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the figures; if not given, plots/ beside the study."""
    prefix: Annotated[str | None, tyro.conf.arg(aliases=["-p"])] = None
    """Prefix of the file names; if not given, made from the title."""
    plot_type: Annotated[Literal["standard", "summary", "both"], tyro.conf.arg(aliases=["-t"])] = "both"
    """standard: history and importances; summary: history and the most important parameters;
    both: these two, parallel coordinates, intermediate values and timeline."""
    importance: Literal["default", "fanova"] = "default"
    """Optuna's importance evaluator: its default, PED-ANOVA, or fANOVA."""
    parameters: int = 3
    """Maximum number of parameters in the summary."""
    format: tuple[Format, ...] = ("pdf", "png")
    """File formats."""

    def __post_init__(self) -> None:
        require(
            1 <= self.parameters <= MAX_PARAMETERS, f"parameters must be 1 to {MAX_PARAMETERS}, got {self.parameters}"
        )
        require(len(self.format) > 0, "format must name at least one of pdf, png")
        if self.prefix is not None:
            check_name(self.prefix, "prefix")


@dataclass(frozen=True)
class Config(FigureSet):
    """Draw figures of Optuna studies: history, importances, parameters, intermediate values, timeline."""

    config: Path | None = None
    """JSON file whose list "studies" holds objects with these settings; the command line wins."""


def load_view(settings: FigureSet) -> View:
    """Reads the study of a figure set.

    Args:
        settings: Where the study is, and how to call it and its objective.

    Raises:
        InputError: If there is no such study, or nothing in it can be drawn; the message names the file and the value.
    """
    require(settings.study is not None, "no study given: name a study file or --config FILE.json")
    from common.sweeps.storage import read_study

    study, where = read_study(str(settings.study), settings.study_name, settings.direction)
    from common.sweeps.figures import View

    require(len(study.directions) == 1, f"{where}: {len(study.directions)} objectives; the figures are for one")
    direction = study.direction.name.lower()
    require(settings.direction in (None, direction), f"{where}: the study says {direction}, not {settings.direction}")
    names = study.metric_names
    metric = settings.metric or (names[0] if names else study.user_attrs.get("metric")) or "objective value"
    view = View(study, settings.title or study.study_name, str(metric), settings.importance)
    view.check(where)
    return view


def draw_figures(view: View, settings: FigureSet) -> dict[str, Figure]:
    """The figures of a study by the ends of their file names; empty ones are left out, with a log line."""
    from common.sweeps.figures import draw

    return draw(view, settings.plot_type, settings.parameters)


def read_config(path: Path) -> list[FigureSet]:
    """The figure sets of a configuration file, with its shared settings in each and paths relative to its folder.

    Raises:
        InputError: If a setting is unknown or wrong; the message names it.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("studies"), list) or not values["studies"]:
        raise InputError(f'{path}: expected an object with a list "studies" of at least one object')
    shared = {name: value for name, value in values.items() if name != "studies"}
    _read_set(shared, str(path), path.parent)
    sets = []
    for index, entry in enumerate(values["studies"]):
        where = f"{path}: studies[{index}]"
        require(isinstance(entry, dict), f"{where}: expected an object, got {entry!r}")
        settings = _read_set(shared | entry, where, path.parent)
        require(settings.study is not None, f"{where}: study is missing")
        sets.append(settings)
    return sets


def _read_set(values: Mapping[str, Any], where: str, folder: Path) -> FigureSet:
    given = dict(values)
    if isinstance(given.get("output_dir"), str):
        given["output_dir"] = folder / given["output_dir"]
    if isinstance(given.get("study"), str) and "://" not in given["study"]:
        given["study"] = str(folder / given["study"])
    return from_dict(FigureSet, given, where)


def _target(settings: FigureSet, view: View) -> Path:
    """Folder and start of the file names of a figure set."""
    source = str(settings.study)
    folder = settings.output_dir or (Path() if "://" in source else Path(source).parent) / "plots"
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", view.name).strip("._-")
    return folder / (settings.prefix or name[:80] or "study")


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Draws the figures that the command line asks for.

    Returns:
        The files written.

    Raises:
        InputError: If a setting or a study is wrong; nothing has been written then.
    """
    asked = parse(Config, argv)
    sets: list[FigureSet] = [asked]
    if asked.config is not None:
        require(asked.study is None, f"give a study or --config, not both: --config {asked.config}")
        defaults = [Config(**vars(each), config=asked.config) for each in read_config(asked.config)]
        sets = [parse(Config, argv, default=default) for default in defaults]
    for settings in sets:
        source = settings.study or ""
        require("://" in source or not source or Path(source).exists(), f"{source}: no such file")
    from optuna import logging as optuna_logging

    optuna_logging.set_verbosity(optuna_logging.ERROR)
    views = [load_view(settings) for settings in sets]
    targets = [_target(settings, view) for settings, view in zip(sets, views, strict=True)]
    for target, count in Counter(targets).items():
        require(count == 1, f"{target}: {count} figure sets would get these names; give them different prefixes")
    from common.figures import save

    written = []
    for settings, view, target in zip(sets, views, targets, strict=True):
        for name, figure in draw_figures(view, settings).items():
            for kind in dict.fromkeys(settings.format):
                path = target.with_name(f"{target.name}_{name}.{kind}")
                save(figure, path)
                logger.info("wrote %s", path)
                written.append(path)
    return written


if __name__ == "__main__":
    run_script(main)
