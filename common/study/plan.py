"""The plan of a study: its cells and their options."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import Device, Precision, parse, require
from common.data.dataset import dataset_dir
from common.errors import InputError
from common.files import content_hash, read_json, unique_keys
from common.models.published import DEFAULT_BASE, base_name
from common.paths import check_name
from common.registry import cheapest_first, has_zero_shot, spec, trained
from common.settings import parse_training

# Not __name__, so that a study has one logger in all its modules.
logger = logging.getLogger("common.study")

FEW_SHOT_KEY = "few-shot"
"""In an options file, for the few-shot cells of all data sets."""
VARIANTS_KEY = "variants"
"""In an options file, further runs of approaches, by name with their options."""
REMARK_KEY = "remark"
"""In an options file, a text for its readers."""
OWN_OPTIONS = (
    "--dataset",
    "--encoder",
    "--base-model",
    "--seed",
    "--train-size",
    "--split",
    "--resume",
    "--output-root",
)
"""What the study itself says to train.py and test.py; no option of an approach may say otherwise."""

LONGEST_ID = 200
"""Letters of a cell's name: file systems take 255 bytes, of which endings and temporary names need some."""


@dataclass(frozen=True)
class StudyConfig:
    """Train and test every approach on every data set with every seed, and make the tables; what is done is kept."""

    dataset: tuple[str, ...]
    """Names of data sets or paths of their folders; missing ones are generated."""
    approaches: tuple[str, ...] = ("all",)
    """Names of approaches, or all (except those that need a large GPU).
    An approach that runs on several kinds of base model is run with each."""
    kinds: tuple[str, ...] = ()
    """Kinds of base model, such as bi; if not given, all of each approach."""
    seeds: tuple[int, ...] = (42, 43, 44)
    """Seeds; every training is done with each of them."""
    base_model: str = DEFAULT_BASE["bi"]
    """Bi-encoder GLiNER: hub id[@revision], folder, or demo-bi."""
    cross_base_model: str = DEFAULT_BASE["cross"]
    """Cross-encoder GLiNER: hub id[@revision], folder, or demo-cross."""
    other_base_models: tuple[str, ...] = ()
    """KIND=MODEL for other kinds of base model; if not given, the approach's own default."""
    source: Path | None = None
    """Folder with a folder or file for each data set to generate; if not given, the hub."""
    train_sizes: tuple[int, ...] = ()
    """Numbers of training sentences for additional few-shot cells."""
    few_shot_approaches: tuple[str, ...] | None = None
    """Approaches of the few-shot cells; if not given, those of --approaches that are meant for them."""
    controls: bool = False
    """Also run each approach's controls: parts of it alone, another tag scheme, descriptions instead of names."""
    transfer: tuple[str, ...] = ()
    """Measure what training on all sentences leaves of the base's zero-shot F1 on these further data sets;
    missing ones are generated likewise."""
    config: Path | None = None
    """JSON file of options by approach, such as
    {"glinerev": ["--epochs", "8"], "jnlpba": {"ldsa": ["--epochs", "3"]}, "few-shot": {...}}:
    for all cells of the approach, for those on one data set, for those on few sentences; the later one wins.
    "variants": {"glinerev": {"head only": ["--no-prompt-encoder"]}} also runs each cell of the approach that way."""
    output: Path | None = None
    """The study's folder; if not given, study/ in the output root."""
    device: Device | None = None
    """Override the device of every cell."""
    precision: Precision | None = None
    """Override the precision of every cell."""
    epochs: int | None = None
    """Override the number of epochs of every training."""
    workers: int = 1
    """Cells to run at once on this machine, sharing its cores and GPUs."""
    cluster: str | None = None
    """Address of a Dask scheduler, such as tcp://HOST:8786, whose workers run the cells instead."""
    threads: int | None = None
    """CPU threads per cell; if not given, a share of this machine's cores, or what the cluster's workers have."""
    part: str | None = None
    """I/N: run only every N-th cell, starting with the I-th, and make no tables; for N independent jobs."""
    dry_run: bool = False
    """Only print the plan with estimated times; the base models' weights are not compared."""

    def __post_init__(self) -> None:
        for name in ("dataset", "approaches", "seeds"):
            require(bool(getattr(self, name)), f"--{name} needs at least one value")
        known = ("all", *cheapest_first())
        for approach in self.approaches:
            require(approach in known, f"--approaches: {approach!r} is none of {list(known)}")
        for approach in self.few_shot_approaches or ():
            require(approach in trained(), f"--few-shot-approaches: {approach!r} is none of {list(trained())}")
        kinds = sorted({kind for name in cheapest_first() for kind in spec(name).kinds})
        for kind in self.kinds:
            require(kind in kinds, f"--kinds: {kind!r} is none of {kinds}")
        for seed in self.seeds:
            require(seed >= 0, f"--seeds must be at least 0, got {seed}")
        for size in self.train_sizes:
            require(size >= 1, f"--train-sizes must be at least 1, got {size}")
        require(self.workers >= 1, f"--workers must be at least 1, got {self.workers}")
        require(self.threads is None or self.threads >= 1, f"--threads must be at least 1, got {self.threads}")
        require(self.workers == 1 or not self.cluster, "--workers is of this machine, --cluster has workers of its own")
        part = re.fullmatch(r"(\d+)/(\d+)", "1/1" if self.part is None else self.part)
        require(part is not None and 1 <= int(part[1]) <= int(part[2]), f"--part: expected I/N, got {self.part!r}")
        require(self.epochs is None or self.epochs >= 1, f"--epochs must be at least 1, got {self.epochs}")
        for text in self.other_base_models:
            kind, separator, model = text.partition("=")
            require(bool(separator and kind and model), f"--other-base-models: expected KIND=MODEL, got {text!r}")
            require(kind in kinds, f"--other-base-models: {kind!r} is none of {kinds}")
        for option in ("dataset", "transfer"):
            folders = [dataset_dir(name).name for name in getattr(self, option)]
            require(len(set(folders)) == len(folders), f"--{option}: two data sets have the same name: {folders}")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The approaches of the study."""
        if "all" not in self.approaches:
            return self.approaches
        return tuple(name for name in cheapest_first() if spec(name).in_all or name in self.approaches)

    def base_model_of(self, approach: str, kind: str) -> str:
        """The base model that an approach is run with."""
        given = {"bi": self.base_model, "cross": self.cross_base_model}
        given |= dict(text.split("=", 1) for text in self.other_base_models)
        return given.get(kind) or spec(approach).bases.defaults[kind]

    @property
    def data_sets(self) -> tuple[str, ...]:
        """All that are needed."""
        return tuple(dict.fromkeys((*self.dataset, *self.transfer)))

    def transfer_sets(self, cell: Cell) -> tuple[str, ...]:
        """The data sets of ``transfer`` that a cell's model is asked for beside its own."""
        if cell.train_size is not None or cell.seed is None or not has_zero_shot(cell.approach, cell.kind):
            return ()
        own = dataset_dir(cell.dataset).name
        return tuple(name for name in self.transfer if dataset_dir(name).name != own)

    @property
    def few_shot(self) -> tuple[str, ...]:
        """The approaches of the few-shot cells."""
        if self.few_shot_approaches is None:
            return tuple(name for name in self.chosen if spec(name).few_shot)
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
    kind: str
    """Kind of base model."""
    base_model: str
    dataset: str
    seed: int | None = None
    """None where nothing is trained."""
    control: str = ""
    """Name of the control run, or of a variant of the options file; empty for the approach itself."""
    train_size: int | None = None
    """Training sentences of a few-shot cell; all if None."""
    options: tuple[str, ...] = ()
    """Further options of train.py, or of test.py where nothing is trained."""

    @property
    def id(self) -> str:
        """Its name in the study's folder: the same on every machine, whatever its options."""
        parts = [dataset_dir(self.dataset).name, self.approach, self.kind]
        parts += [self.control.replace(" ", "-")] * bool(self.control)
        parts += [f"n{self.train_size}"] * (self.train_size is not None)
        parts += [f"s{self.seed}"] * (self.seed is not None)
        return f"{'_'.join(parts)}_{content_hash([*parts, self.base_name])[:6]}"

    @property
    def base_name(self) -> str:
        """Hub id or folder name of the base model, as results have it."""
        return base_name(self.base_model)

    @property
    def title(self) -> str:
        """Its name in logs."""
        what = [f"{spec(self.approach).title} {self.kind}", *([self.control] if self.control else [])]
        how = [f"{self.train_size:,} training sentences"] if self.train_size is not None else []
        how += [f"seed {self.seed}"] if self.seed is not None else []
        return ", ".join([f"{', '.join(what)} on {dataset_dir(self.dataset).name}", *how])

    @property
    def arguments(self) -> list[str]:
        """The command line of its train.py, or of test.py where nothing is trained."""
        arguments = ["--dataset", self.dataset, "--base-model", self.base_model]
        arguments += ["--encoder", self.kind] if len(spec(self.approach).kinds) > 1 else []
        arguments += ["--seed", str(self.seed)] if self.seed is not None else []
        arguments += ["--train-size", str(self.train_size)] if self.train_size is not None else []
        return [*arguments, *self.options, "--no-progress"]


def make_plan(config: StudyConfig) -> list[Cell]:
    """The cells of a study, or of a part of it, those of cheap approaches first.

    Raises:
        InputError: If ``--config`` is no file of options by approach.
    """
    options = read_options(config.config, config.dataset) if config.config else Options({}, {}, {})
    cells: dict[str, Cell] = {}
    for approach in cheapest_first():
        known = spec(approach)
        variants = {"": (), **options.variants.get(approach, {})}
        rows: list[tuple[str, tuple[str, ...], int | None]] = []
        if approach in config.chosen:
            controls = {control.name: control.options for control in known.controls} if config.controls else {}
            rows = [(name, more, None) for name, more in {**controls, **variants}.items()]
        if approach in config.few_shot:
            rows += [(name, more, size) for size in config.train_sizes for name, more in variants.items()]
        seeds = config.seeds if known.trains else (None,)
        last = ("--epochs", str(config.epochs)) if known.trains and config.epochs is not None else ()
        for kind in (kind for kind in known.kinds if kind in (config.kinds or known.kinds)):
            base_model = config.base_model_of(approach, kind)
            for control, more, size in rows:
                for seed, dataset in itertools.product(seeds, config.dataset):
                    given = (*options.of(approach, dataset, size), *more, *last, *config.overrides)
                    cell = Cell(approach, kind, base_model, dataset, seed, control, size, given)
                    require(len(cell.id) <= LONGEST_ID, f"{cell.title[:200]}: its name is too long for a file")
                    first = cells.setdefault(cell.id, cell)
                    require(first == cell, f"{cell.title} and {first.title} are two cells of the same name, {cell.id}")
    require(bool(cells), f"--kinds {' '.join(config.kinds)}: no approach of the study runs on them")
    place, _, step = (config.part or "1/1").partition("/")
    return list(cells.values())[int(place) - 1 :: int(step)]


@dataclass(frozen=True)
class Options:
    """Further options of train.py and test.py."""

    by_approach: Mapping[str, tuple[str, ...]]
    """For all cells of an approach."""
    by_condition: Mapping[str, Mapping[str, tuple[str, ...]]]
    """For those on a data set, or under :data:`FEW_SHOT_KEY`, by approach."""
    variants: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Of each approach by name: what a variant has beside them."""

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
    values = read_json(path, unique_keys)
    require(isinstance(values, dict), f"{path}: expected an object of options by approach")
    variants = _read_variants(values.pop(VARIANTS_KEY, {}), f"{path}: {VARIANTS_KEY}")
    require(isinstance(values.pop(REMARK_KEY, ""), str), f"{path}: {REMARK_KEY}: expected a text")
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    inner = {name: value for name, value in values.items() if isinstance(value, dict)}
    used = {FEW_SHOT_KEY, *(dataset_dir(name).name for name in datasets)}
    if unused := [name for name in inner if name not in used]:
        logger.info("%s: not used, no data set of this study: %s", path, unused)
    return Options(
        _read_lists(plain, str(path)),
        {name: _read_lists(value, f"{path}: {name}") for name, value in inner.items()},
        variants,
    )


def _read_lists(values: Any, where: str) -> dict[str, tuple[str, ...]]:
    _check_approaches(values, where)
    return {approach: _read_list(options, f"{where}: {approach}") for approach, options in values.items()}


def _read_variants(values: Any, where: str) -> dict[str, dict[str, tuple[str, ...]]]:
    _check_approaches(values, where)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for approach, variants in values.items():
        require(isinstance(variants, dict), f"{where}: {approach}: expected an object of options by name of a variant")
        controls = {control.name: control.options for control in spec(approach).controls}
        for name, options in variants.items():
            # It stands in the names of files.
            check_name(name.replace(" ", "-"), f"{where}: {approach}: name of a variant")
            found.setdefault(approach, {})[name] = own = _read_list(options, f"{where}: {approach}: {name}")
            require(
                controls.get(name, own) == own,
                f"{where}: {approach}: {name!r} is the name of a control with the options {controls.get(name)}",
            )
    return found


def _check_approaches(values: Any, where: str) -> None:
    if not isinstance(values, dict) or not set(values) <= set(cheapest_first()):
        raise InputError(f"{where}: expected an object of options by approach; approaches are {list(cheapest_first())}")


def _read_list(options: Any, where: str) -> tuple[str, ...]:
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise InputError(f"{where}: expected a list of strings, got {options!r}")
    for option in options:
        if option.partition("=")[0].replace("_", "-") in OWN_OPTIONS:
            raise InputError(f"{where}: {option} is set by the study itself")
    return tuple(options)


def configuration(cell: Cell) -> Any:
    """The complete configuration of a cell, as its script gets it.

    Raises:
        InputError: If the script does not understand its options, or the cell could not be resumed.
    """
    known = spec(cell.approach)
    command = f"python -m {cell.approach}.{'train' if known.trains else 'test'}"
    try:
        if not known.trains:
            return parse(known.config, cell.arguments, command=command)
        config = parse_training(known, cell.arguments, command)[0]
    except SystemExit:
        # The command line's parser has said what is wrong, and ends the process.
        raise InputError(
            f"{cell.title}: options of {cell.approach} are not right: {' '.join(cell.arguments)}"
        ) from None
    except InputError as error:
        raise InputError(f"{cell.title}: {error}") from error
    # A file of settings that an option names may say it.
    require(
        config.data.train_size == cell.train_size,
        f"{cell.title}: options of {cell.approach}: the study itself sets train_size, got {config.data.train_size}",
    )
    if getattr(config, "trainer", "common") != "common":
        raise InputError(
            f"{cell.title}: options of {cell.approach}: a study trains by --trainer common, which can resume"
        )
    return config
