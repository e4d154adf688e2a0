"""The whole study, cell by cell: ``python -m common.study --dataset jnlpba bc5cdr --approaches all --seeds 42 43 44``.

    <study>/results/<cell>.json       what test.py wrote, with its page, its predictions and its counts
    <study>/cells/<cell>.json         state of a cell: whose it is, its settings, its run folder, its time or its error
    <study>/superseded/               results that had other settings, data or weights than the newest
    <study>/tables/                   what common.tables makes of the results

The same command goes on after a kill, and several processes or machines may run it on one folder at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import io
import itertools
import json
import logging
import shutil
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from common import tables
from common.backbone import load_base
from common.checkpoint import RUN_FILE, WEIGHTS_FILE
from common.config import DataConfig, Precision, differences, parse, parse_training, require, to_dict
from common.data import ENCODERS, LABEL2DESC_FILE, MANIFEST_FILE, Encoder, dataset_dir, load_dataset
from common.entry import prepare_run
from common.errors import InputError, TrainingError
from common.files import atomic_path, read_json, write_json
from common.liveness import is_dead, signs_of_life, this_process
from common.paths import PROJECT_ROOT, now, output_root
from common.published import DEFAULT_BASE
from common.registry import TRAINED, spec
from common.results import companions, read_result
from common.script import run_script
from common.training import fit
from dataset_generation.generate import DEMOS, GenerateConfig, generate
from zeroshot_baseline.config import Config as ZeroShotConfig

# Not __name__, which is __main__ when this file runs as a script.
logger = logging.getLogger("common.study")

ZERO_SHOT = "zeroshot_baseline"
_BY_COST = (ZERO_SHOT, "ldsa", "softprompt_base", "injection_bi", "glinerev", "injection_cross", "full_finetune")
CHEAPEST_FIRST = (*_BY_COST, *(name for name in TRAINED if name not in _BY_COST))
"""All approaches; those that were added last, since nothing is known of their cost."""
FEW_SHOT_KEY = "few-shot"
"""In an options file, for the few-shot cells of all data sets."""
FEW_SHOT_APPROACHES = ("glinerev", "full_finetune", "ldsa", "injection_bi")
OWN_OPTIONS = ("--dataset", "--encoder", "--base-model", "--seed", "--train-size", "--split", "--resume")
"""What the study itself says to train.py and test.py; no option of an approach may say otherwise."""

State = Literal["done", "kept", "failed", "elsewhere"]


# -- the plan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyConfig:
    """Trains and tests every approach on every data set with every seed, and makes the tables; what is done already is kept."""

    dataset: tuple[str, ...]
    """Names of data sets or paths of their folders; one that is missing is generated."""
    approaches: tuple[str, ...] = ("all",)
    """all, or names of approaches; full_finetune and zeroshot_baseline are run with both kinds of encoder."""
    seeds: tuple[int, ...] = (42, 43, 44)
    """Every training is done with each of them."""
    base_model: str = DEFAULT_BASE["bi"]
    """Bi-encoder GLiNER: hub id, folder, or demo-bi."""
    cross_base_model: str = DEFAULT_BASE["cross"]
    """Cross-encoder GLiNER: hub id, folder, or demo-cross."""
    source: Path | None = None
    """Folder with a folder or a file for each data set to generate; the hub if not given."""
    train_sizes: tuple[int, ...] = ()
    """Numbers of training sentences for further, few-shot cells."""
    few_shot_approaches: tuple[str, ...] | None = None
    """Approaches of the few-shot cells; glinerev, full_finetune, ldsa and injection_bi, so far as chosen, if not given."""
    controls: bool = False
    """Also SP-GLiNER's head alone, prompt alone and post_norm, the token family's BIO scheme, and zero-shot with descriptions."""
    config: Path | None = None
    """JSON file of options by approach, as {"glinerev": ["--epochs", "8"], "jnlpba": {"ldsa": ["--epochs", "3"]}, "few-shot": {...}}:
    for all cells of the approach, for those on one data set, for those on few sentences; the later one wins."""
    output: Path | None = None
    """The study's folder; study/ among the project's output if not given."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Overrides the device of every cell."""
    precision: Precision | None = None
    """Overrides the precision of every cell."""
    epochs: int | None = None
    """Overrides the epochs of every training."""
    dry_run: bool = False
    """Only print the plan, with estimated times; the base models' weights are not compared."""

    def __post_init__(self) -> None:
        for name in ("dataset", "approaches", "seeds"):
            require(bool(getattr(self, name)), f"--{name} needs at least one value")
        known = ("all", *CHEAPEST_FIRST)
        for approach in self.approaches:
            require(approach in known, f"--approaches: {approach!r} is none of {list(known)}")
        for approach in self.few_shot_approaches or ():
            require(approach in TRAINED, f"--few-shot-approaches: {approach!r} is none of {list(TRAINED)}")
        for seed in self.seeds:
            require(seed >= 0, f"--seeds must be at least 0, got {seed}")
        for size in self.train_sizes:
            require(size >= 1, f"--train-sizes must be at least 1, got {size}")
        require(self.epochs is None or self.epochs >= 1, f"--epochs must be at least 1, got {self.epochs}")
        folders = [dataset_dir(name).name for name in self.dataset]
        require(len(set(folders)) == len(folders), f"--dataset: two data sets have one name: {folders}")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The approaches of the study."""
        return CHEAPEST_FIRST if "all" in self.approaches else self.approaches

    @property
    def few_shot(self) -> tuple[str, ...]:
        """The approaches of the few-shot cells."""
        if self.few_shot_approaches is None:
            return tuple(name for name in FEW_SHOT_APPROACHES if name in self.chosen)
        return self.few_shot_approaches

    @property
    def overrides(self) -> tuple[str, ...]:
        """Device and precision, as train.py and test.py take them."""
        given = {"--device": self.device, "--precision": self.precision}
        return tuple(text for option, value in given.items() if value is not None for text in (option, value))


@dataclass(frozen=True)
class Cell:
    """One model on one data set."""

    approach: str
    encoder: Encoder
    base_model: str
    dataset: str
    seed: int | None = None
    """None where nothing is trained."""
    variant: str = ""
    """Name of the control variant; empty for the approach itself."""
    train_size: int | None = None
    """Training sentences of a few-shot cell; all if None."""
    options: tuple[str, ...] = ()
    """Further options of train.py, or of test.py where nothing is trained."""

    @property
    def id(self) -> str:
        """Its name in the study's folder: the same on every machine, whatever the options that are no part of the plan."""
        parts = [dataset_dir(self.dataset).name, self.approach, self.encoder]
        parts += [self.variant.replace(" ", "-")] * bool(self.variant)
        parts += [f"n{self.train_size}"] * (self.train_size is not None)
        parts += [f"s{self.seed}"] * (self.seed is not None)
        digest = hashlib.sha256(json.dumps([*parts, self.base_name]).encode())
        return f"{'_'.join(parts)}_{digest.hexdigest()[:6]}"

    @property
    def base_name(self) -> str:
        """Hub id or folder name of the base model, as results have it."""
        return Path(self.base_model).name if Path(self.base_model).is_dir() else self.base_model

    @property
    def title(self) -> str:
        """Its name in logs."""
        name = "zero-shot" if self.approach == ZERO_SHOT else spec(self.approach).title
        what = [f"{name} {self.encoder}", *([self.variant] if self.variant else [])]
        how = [f"{self.train_size:,} training sentences"] if self.train_size is not None else []
        how += [f"seed {self.seed}"] if self.seed is not None else []
        return ", ".join([f"{', '.join(what)} on {dataset_dir(self.dataset).name}", *how])

    @property
    def arguments(self) -> list[str]:
        """The command line of its train.py, or of test.py where nothing is trained."""
        arguments = ["--dataset", self.dataset, "--base-model", self.base_model]
        arguments += ["--encoder", self.encoder] if len(encoders_of(self.approach)) > 1 else []
        arguments += ["--seed", str(self.seed)] if self.seed is not None else []
        arguments += ["--train-size", str(self.train_size)] if self.train_size is not None else []
        return [*arguments, *self.options, "--no-progress"]


def encoders_of(approach: str) -> tuple[Encoder, ...]:
    """The kinds of encoder that an approach is run with."""
    if approach == ZERO_SHOT or "encoder" in _settings_of(approach):
        return ENCODERS
    kind = spec(approach)
    return (kind.encoder(kind.config(data=DataConfig("any"))),)


def controls_of(approach: str) -> dict[str, tuple[str, ...]]:
    """The options of an approach's control variants, by their names."""
    if approach == ZERO_SHOT:
        return {"descriptions": ("--labels", "descriptions")}
    if approach == "glinerev":
        return {
            "head only": ("--no-prompt-encoder",),
            "prompt only": ("--no-head",),
            "post_norm": ("--prompt-form", "post_norm"),
            "descriptions": ("--labels", "descriptions"),
        }
    return {"bio": ("--scheme", "bio")} if "token" in _settings_of(approach) else {}


def _settings_of(approach: str) -> set[str]:
    return {field.name for field in dataclasses.fields(spec(approach).config)}


def make_plan(config: StudyConfig) -> list[Cell]:
    """All cells of a study, those of cheap approaches first.

    Raises:
        InputError: If ``--config`` is no file of options by approach.
    """
    options = read_options(config.config, config.dataset) if config.config else Options({}, {})
    cells: dict[str, Cell] = {}
    for approach in CHEAPEST_FIRST:
        rows: list[tuple[str, tuple[str, ...], int | None]] = []
        if approach in config.chosen:
            controls = controls_of(approach) if config.controls else {}
            rows = [("", (), None), *((name, more, None) for name, more in controls.items())]
        if approach in config.few_shot:
            rows += [("", (), size) for size in config.train_sizes]
        trained = approach != ZERO_SHOT
        seeds = config.seeds if trained else (None,)
        last = ("--epochs", str(config.epochs)) if trained and config.epochs is not None else ()
        for encoder in encoders_of(approach):
            base_model = config.base_model if encoder == "bi" else config.cross_base_model
            for variant, more, size in rows:
                for seed, dataset in itertools.product(seeds, config.dataset):
                    given = (*options.of(approach, dataset, size), *more, *last, *config.overrides)
                    cell = Cell(approach, encoder, base_model, dataset, seed, variant, size, given)
                    cells.setdefault(cell.id, cell)
    return list(cells.values())


@dataclass(frozen=True)
class Options:
    """Further options of train.py and test.py."""

    by_approach: Mapping[str, tuple[str, ...]]
    """For all cells of an approach."""
    by_condition: Mapping[str, Mapping[str, tuple[str, ...]]]
    """For those on a data set, or under :data:`FEW_SHOT_KEY`, by approach."""

    def of(self, approach: str, dataset: str, train_size: int | None) -> tuple[str, ...]:
        """The options of a cell, those that win last."""
        places = [self.by_approach, self.by_condition.get(dataset_dir(dataset).name, {})]
        places += [self.by_condition.get(FEW_SHOT_KEY, {})] * (train_size is not None)
        return tuple(option for place in places for option in place.get(approach, ()))


def read_options(path: Path, datasets: Iterable[str]) -> Options:
    """The options in a file.

    Args:
        path: JSON file.
        datasets: The data sets of the study.

    Raises:
        InputError: If it is no such file, or an option is the study's to say.
    """
    values = read_json(path)
    require(isinstance(values, dict), f"{path}: expected an object of options by approach")
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    inner = {name: value for name, value in values.items() if isinstance(value, dict)}
    used = {FEW_SHOT_KEY, *(dataset_dir(name).name for name in datasets)}
    if unused := [name for name in inner if name not in used]:
        logger.info("%s: not used, no data set of this study: %s", path, unused)
    return Options(
        _read_lists(plain, str(path)), {name: _read_lists(value, f"{path}: {name}") for name, value in inner.items()}
    )


def _read_lists(values: Any, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(values, dict) or not set(values) <= set(CHEAPEST_FIRST):
        raise InputError(f"{where}: expected an object of options by approach; approaches are {list(CHEAPEST_FIRST)}")
    for approach, options in values.items():
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise InputError(f"{where}: {approach}: expected a list of strings, got {options!r}")
        for option in options:
            if option.partition("=")[0].replace("_", "-") in OWN_OPTIONS:
                raise InputError(f"{where}: {approach}: {option} is for the study to say")
    return {approach: tuple(options) for approach, options in values.items()}


def configuration(cell: Cell) -> Any:
    """The complete configuration of a cell, as its script gets it.

    Raises:
        InputError: If the script does not understand its options, or the cell could not be resumed.
    """
    try:
        if cell.approach == ZERO_SHOT:
            return parse(ZeroShotConfig, cell.arguments)
        config = parse_training(spec(cell.approach).config, cell.approach, cell.arguments)[0]
    except SystemExit:
        # The command line's parser has said what is wrong, and ends the process.
        raise InputError(f"options of {cell.approach} are not right: {' '.join(cell.arguments)}") from None
    if getattr(config, "trainer", "common") != "common":
        raise InputError(f"options of {cell.approach}: a study trains by --trainer common, which can resume")
    return config


# -- a cell's file ----------------------------------------------------------------------------------------------------


class CellFile:
    """What the study's folder says of a cell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = read_json(path) if path.is_file() else {}
        # The thread that gives signs of life writes too.
        self._writing = threading.Lock()

    def update(self, **values: Any) -> None:
        """Sets values and writes the file."""
        with self._writing:
            self.values = self.values | values
            write_json(self.path, self.values)

    def replace(self, **values: Any) -> None:
        """Starts the file anew."""
        with self._writing:
            self.values = values
            write_json(self.path, values)

    def get(self, name: str) -> Any:
        """A value, None if the file has none of the name."""
        return self.values.get(name)

    @property
    def running(self) -> bool:
        """Whether a process that seems alive is at work on it."""
        return self.get("state") == "running" and not is_dead(self.get("process"), self.get("alive"))

    @property
    def running_elsewhere(self) -> bool:
        """Whether another machine is at work on it.

        On this machine the lock alone says it; on some network folders a lock says nothing of other machines.
        """
        return self.running and self.get("process")["host"] != this_process()["host"]


def digest_of(settings: Mapping[str, Any]) -> str:
    """The configuration hash."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


# -- estimates --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """Seconds for one sentence."""

    test: float
    train: float | None
    """In one epoch; None where nothing was trained."""

    def seconds(self, sizes: Mapping[str, int], epochs: int) -> float | None:
        """The time of a cell: training and validation in each epoch, and the test."""
        tested = self.test * sizes["test"]
        if not epochs:
            return tested
        if self.train is None:
            return None
        return epochs * (self.train * sizes["train"] + self.test * sizes["validation"]) + tested


_Kind = tuple[str, str, str]
"""Approach, encoder and base model: what a pace holds for."""


def paces(folder: Path) -> dict[_Kind, Pace]:
    """The median pace of a folder's results that were made on a machine with the same GPU, or with none, as this one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found: dict[_Kind, list[Pace]] = defaultdict(list)
    for path in sorted(folder.rglob("*.json")):
        # An estimate is not worth an end: results of other versions may lack a field.
        with contextlib.suppress(InputError, KeyError, ZeroDivisionError):
            result = read_result(path)
            if result["provenance"]["machine"]["gpu"] == gpu:
                base = result["base_model"]
                found[(result["approach"], base["encoder"], base["name"])].append(_pace(result))
    return {
        kind: Pace(
            statistics.median(pace.test for pace in rows),
            None if rows[0].train is None else statistics.median(pace.train or 0.0 for pace in rows),
        )
        for kind, rows in found.items()
    }


def _pace(result: Mapping[str, Any]) -> Pace:
    training = result.get("training")
    test = 1 / result["speed"]["sentences_per_second"]
    if not training:
        return Pace(test, None)
    return Pace(test, training["train_seconds"] / (training["epochs"] * training["dataset"]["train"]))


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def total_time(estimates: Iterable[float | None]) -> str:
    """The sum of what is known, and for how many cells nothing is."""
    rows = list(estimates)
    known = [seconds for seconds in rows if seconds is not None]
    parts = [f"about {duration(sum(known))}"] if known else []
    parts += [f"unknown time for {len(rows) - len(known)} of them"] if len(known) < len(rows) else []
    return " and ".join(parts) or "nothing left"


# -- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Content:
    """What the study needs to know of a data set."""

    sha256: str
    sizes: dict[str, int]


class Study:
    """A study's plan and folder, and this process's part in it.

    Args:
        config: The command line.

    Raises:
        InputError: If a script does not understand its options; nothing has been run then.
    """

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.folder = (config.output or output_root() / "study").absolute()
        self.cells = make_plan(config)
        self.configurations = {cell.id: configuration(cell) for cell in self.cells}
        self.started = now()
        self._contents: dict[tuple[str, Encoder], _Content] = {}
        self._revisions: dict[tuple[str, Encoder], str] = {}
        self._without_data: dict[str, str] = {}

    @property
    def results(self) -> Path:
        """The folder of the collected results."""
        return self.folder / "results"

    def result_path(self, cell: Cell) -> Path:
        """Where a cell's collected result is."""
        return self.results / f"{cell.id}.json"

    def file(self, cell: Cell) -> CellFile:
        """What the folder says of a cell now."""
        return CellFile(self.folder / "cells" / f"{cell.id}.json")

    # -- data, and what a result depends on ---------------------------------------------------------------------------

    def generate_missing(self) -> None:
        """Generates the data sets that are not there; one that cannot be had fails its cells and no others."""
        for name in self.config.dataset:
            directory = dataset_dir(name)
            if not _is_missing(directory):
                continue
            try:
                source = self._source(directory.name)
                config = GenerateConfig(directory.name, source=source, output_dir=directory.parent)
                directory.parent.mkdir(parents=True, exist_ok=True)
                # Processes of one machine share its data sets.
                with FileLock(directory.with_name(f".{directory.name}.lock")):
                    if _is_missing(directory):
                        generate(config)
                        logger.info("generated %s", directory)
            except InputError as error:
                logger.error("data set %s: %s", directory.name, error)
                self._without_data[name] = str(error)

    def _source(self, name: str) -> str | None:
        """Where ``--source`` has a data set.

        Raises:
            InputError: If it has none, or several files, of the name.
        """
        folder = self.config.source
        if folder is None or name in DEMOS:
            return None
        found = [folder / name] if (folder / name).is_dir() else sorted(folder.glob(f"{name}.*"))
        if len(found) != 1:
            raise InputError(f"--source {folder}: needs one folder {name} or one file {name}.*, found {len(found)}")
        return str(found[0])

    def content(self, cell: Cell) -> _Content:
        """Hash and sizes of the cell's data set.

        Raises:
            InputError: If there is no such data set or it is not whole.
        """
        if cell.dataset in self._without_data:
            raise InputError(self._without_data[cell.dataset])
        key = cell.dataset, cell.encoder
        if key not in self._contents:
            data = load_dataset(cell.dataset, cell.encoder)
            sizes = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
            self._contents[key] = _Content(data.sha256, sizes)
        return self._contents[key]

    def revision(self, cell: Cell) -> str:
        """The revision of the cell's base model as it would be loaded now.

        Raises:
            InputError: If it cannot be loaded.
        """
        key = cell.base_model, cell.encoder
        if key not in self._revisions:
            self._revisions[key] = load_base(cell.base_model, cell.encoder).revision
        return self._revisions[key]

    def settings(self, cell: Cell, revision: str) -> dict[str, Any]:
        """All that a cell's result depends on: its configuration without paths and runtime, data, and base model.

        Raises:
            InputError: If there is no such data set.
        """
        values = to_dict(self.configurations[cell.id])
        # Content hash and revision stand for the places of data and base model.
        for name in ("runtime", "base_model", "dataset"):
            values.pop(name, None)
        if "data" in values:
            values["data"].pop("dataset")
        return {
            "approach": cell.approach,
            "configuration": values,
            "dataset_sha256": self.content(cell).sha256,
            "base_model": {"name": cell.base_name, "revision": revision},
        }

    def is_done(self, cell: Cell, file: CellFile, settings: Mapping[str, Any]) -> bool:
        """Whether the folder has the whole result of a cell with the same settings."""
        whole = all(path.is_file() for path in companions(self.result_path(cell)))
        return whole and file.get("state") == "done" and file.get("hash") == digest_of(settings)

    # -- the plan as text ---------------------------------------------------------------------------------------------

    def seems_done(self, cell: Cell) -> bool:
        """Whether a cell is done, its base model taken to be what it was."""
        file = self.file(cell)
        if file.get("state") != "done":
            return False
        try:
            return self.is_done(cell, file, self.settings(cell, file.get("settings")["base_model"]["revision"]))
        except InputError:
            return False

    def estimates(self, cells: Iterable[Cell]) -> list[float | None]:
        """Seconds that cells take at most, by results of the same approach and base; None if there is none or no data yet."""
        known = paces(PROJECT_ROOT / "results") | paces(self.results)
        return [self._estimate(cell, known.get((cell.approach, cell.encoder, cell.base_name))) for cell in cells]

    def _estimate(self, cell: Cell, pace: Pace | None) -> float | None:
        if pace is None:
            return None
        try:
            sizes = self.content(cell).sizes
        except InputError:
            return None
        config = self.configurations[cell.id]
        if cell.approach == ZERO_SHOT:
            return pace.seconds(sizes, 0)
        limits = {"train": config.data.train_size, "validation": config.data.validation_size}
        limited = {name: min(size, limits.get(name) or size) for name, size in sizes.items()}
        return pace.seconds(limited, config.train.epochs)

    def outline(self) -> str:
        """The plan: each cell with its state and the time that it is going to take."""
        states = [self._state(cell) for cell in self.cells]
        estimates = self.estimates(self.cells)
        width = max(len(cell.title) for cell in self.cells)
        lines = []
        for number, (cell, state, seconds) in enumerate(zip(self.cells, states, estimates, strict=True), start=1):
            expected = "unknown" if seconds is None else duration(seconds)
            lines.append(f"{number:>4}  {cell.title:<{width}}  {'-' if state == 'done' else expected:>11}  {state}")
        left = [seconds for seconds, state in zip(estimates, states, strict=True) if state != "done"]
        return "\n".join(
            [*lines, f"{len(states)} cells, {len(left)} to do: {total_time(left)}; study folder {self.folder}"]
        )

    def _state(self, cell: Cell) -> str:
        file = self.file(cell)
        if self.seems_done(cell):
            return "done"
        if file.running:
            return "running on {host}, process {pid}".format(**file.get("process"))
        return {
            None: "to do", "done": "to do again: settings, data or files are others, or not here", "failed": "to do again: it failed",
        }.get(file.get("state"), "to go on with")  # fmt: skip

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, State]:
        """Does every cell that is not done; returns how each ended, by its id."""
        self.generate_missing()
        ended: dict[str, State] = {}
        waiting = list(enumerate(self.cells, start=1))
        while waiting:
            for number, cell in waiting:
                ended[cell.id] = self._take(number, cell, [c for c in self.cells[number:] if c.id not in ended])
            # What others were at may have been left by them meanwhile.
            left = [(number, cell) for number, cell in waiting if ended[cell.id] == "elsewhere"]
            waiting = left if len(left) < len(waiting) else []
        return ended

    def _take(self, number: int, cell: Cell, rest: Sequence[Cell]) -> State:
        """Does one cell unless it is done or another process is at it."""
        head = f"[{number}/{len(self.cells)}] {cell.title}"
        lock = FileLock(self.folder / "locks" / f"{cell.id}.lock")
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("%s: another process is at it", head)
            return "elsewhere"
        try:
            file = self.file(cell)
            if file.running_elsewhere:
                logger.info("%s: %s is at it", head, file.get("process")["host"])
                return "elsewhere"
            if file.get("state") == "failed" and file.get("ended") >= self.started:
                logger.error("%s: failed in another process: %s", head, file.get("error"))
                return "failed"
            state = self._do(head, cell, file)
        finally:
            lock.release()
        if state != "kept":
            self._clean_up(rest)
        return state

    def _clean_up(self, rest: Sequence[Cell]) -> None:
        """Frees the last model before the next is loaded, and says how long the rest takes."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        left = [cell for cell in rest if not self.seems_done(cell)]
        if left:
            logger.info("%d cells left: %s", len(left), total_time(self.estimates(left)))

    def _do(self, head: str, cell: Cell, file: CellFile) -> State:
        """Does one cell, whose lock this process has."""
        start = time.perf_counter()
        begun = False
        try:
            settings = self.settings(cell, self.revision(cell))
            if self.is_done(cell, file, settings):
                logger.info("%s: done before", head)
                return "kept"
            self._begin(head, cell, file, settings)
            begun = True
            with signs_of_life(lambda alive: file.update(alive=alive)):
                self._collect(cell, self._tested(cell, file))
        except (InputError, TrainingError, torch.OutOfMemoryError) as error:
            logger.error("%s: failed: %s", head, error)
            # Without the data or the base model here, a result that another machine has made is as good as it was.
            if begun or file.get("state") != "done":
                ending = {"ended": now(), "seconds": time.perf_counter() - start, "process": this_process()}
                file.update(id=cell.id, title=cell.title, state="failed", error=str(error), **ending)
            return "failed"
        except KeyboardInterrupt:
            if begun:
                file.update(state="interrupted", ended=now())
            raise
        seconds = time.perf_counter() - start
        file.update(state="done", ended=now(), seconds=seconds)
        micro = read_result(self.result_path(cell))["scores"]["micro"]["f1"]
        logger.info("%s: micro F1 %.4f, %s", head, micro, duration(seconds))
        return "done"

    def _begin(self, head: str, cell: Cell, file: CellFile, settings: dict[str, Any]) -> None:
        """Makes the cell this process's; what it had with other settings is put aside."""
        digest = digest_of(settings)
        kept: dict[str, Any] = {}
        if file.get("hash") == digest:
            kept = {name: file.get(name) for name in ("run", "result") if file.get(name) is not None}
        else:
            if file.get("settings"):
                changes = "; ".join(differences(file.get("settings"), settings))
                logger.info("%s: other settings than before: %s", head, changes)
            self._put_aside(cell, file.get("hash") or "unknown")
        (estimate,) = self.estimates([cell])
        expected = "" if estimate is None else f", about {duration(estimate)}"
        logger.info("%s: %s%s", head, "going on" if kept else "starting", expected)
        file.replace(
            id=cell.id, title=cell.title, state="running", started=now(), process=this_process(), alive=time.time(),
            hash=digest, settings=settings, **kept,
        )  # fmt: skip

    def _put_aside(self, cell: Cell, digest: str) -> None:
        """Moves a result of other settings out of the folder that tables are made from."""
        target = self.folder / "superseded" / f"{cell.id}_{digest[:6]}.json"
        for old, new in zip(companions(self.result_path(cell)), companions(target), strict=True):
            if old.is_file():
                new.parent.mkdir(parents=True, exist_ok=True)
                old.replace(new)

    def _tested(self, cell: Cell, file: CellFile) -> Path:
        """The result that test.py wrote, from before if there is one."""
        before = file.get("result")
        if before is not None and all(path.is_file() for path in companions(Path(before))):
            return Path(before)
        arguments = cell.arguments
        if cell.seed is not None:
            run = self._trained(cell, file)
            arguments = ["--dataset", cell.dataset, "--checkpoint", str(run), *self.config.overrides, "--no-progress"]
        # Two tests that end in one second would give their results one name.
        lock = output_root() / cell.approach / f".{dataset_dir(cell.dataset).name}_test.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            result = run_test_script(cell.approach, arguments)
        file.update(result=str(result))
        return result

    def _trained(self, cell: Cell, file: CellFile) -> Path:
        """The folder of a finished run; one that was cut off goes on."""
        approach, known = spec(cell.approach), file.get("run")
        prepared = None
        status = run_status(Path(known)) if known else None
        if status == "finished":
            return Path(known)
        # One that failed does so again from its last epoch; it gets another chance from the start.
        if status in ("running", "interrupted"):
            try:
                prepared = prepare_run(approach, [*cell.arguments, "--resume", known])
            except InputError as error:
                logger.warning("%s: starts again: %s", cell.title, error)
        config, run, data, model = prepared or prepare_run(approach, cell.arguments)
        file.update(run=str(run.path))
        return fit(model, data, config.train, config.runtime, run).path

    def _collect(self, cell: Cell, result: Path) -> None:
        """Copies a result into the study's folder, the JSON file last: what has one is whole."""
        pairs = zip(companions(result), companions(self.result_path(cell)), strict=True)
        for source, target in pairs:
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)

    def summary(self, ended: Mapping[str, State]) -> str:
        """How the cells ended, and the names and errors of those that failed."""
        counts = {state: list(ended.values()).count(state) for state in ("done", "kept", "failed", "elsewhere")}
        lines = [
            "{total} cells: {done} done, {kept} done before, {failed} failed, {elsewhere} at work in other processes".format(
                total=len(ended), **counts
            )
        ]
        for cell in self.cells:
            if ended[cell.id] == "failed":
                file = self.file(cell)
                # A cell that another machine has done is not marked by a failure here.
                error = file.get("error") if file.get("state") == "failed" else "see the log"
                lines.append(f"failed: {cell.title}: {error} ({cell.id})")
        return "\n".join(lines)


def _is_missing(directory: Path) -> bool:
    """Whether a data set has to be generated; its last two files tell, of which data sets of other tools have only the first."""
    return not any((directory / name).is_file() for name in (LABEL2DESC_FILE, MANIFEST_FILE))


def run_status(run: Path) -> str | None:
    """The status of a run folder; None if it is not on this machine, or finished but without its weights."""
    if not (run / RUN_FILE).is_file():
        return None
    status = str(read_json(run / RUN_FILE)["status"])
    return None if status == "finished" and not (run / WEIGHTS_FILE).is_file() else status


def run_test_script(approach: str, arguments: Sequence[str]) -> Path:
    """Runs an approach's test.py without the page that it prints; returns the path of the result."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(f"{approach}.test").main(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a study from the command line, or prints its plan.

    Returns:
        The exit status: 1 if a cell failed.
    """
    study = Study(parse(StudyConfig, argv))
    if study.config.dry_run:
        print(study.outline())
        return 0
    ended = study.run()
    print(study.summary(ended))
    if any(study.results.glob("*.json")):
        tables.main(["--results", str(study.results), "--output", str(study.folder / "tables")])
    return int("failed" in ended.values())


def script() -> None:
    """The command: ends with the exit status of :func:`main`."""
    if status := main():
        raise SystemExit(status)


if __name__ == "__main__":
    run_script(script)
