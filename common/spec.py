"""The specification of an approach: everything that the rest of the project needs to know about it.

It is the ``SPEC`` in ``spec.py`` of the approach's folder, which imports nothing heavy. Study, sweeps, tables and
benchmark know approaches only through their specifications.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from common.config import DataConfig, from_dict, upgrade
from common.data.labels import LabelSet
from common.paths import output_root

if TYPE_CHECKING:
    from common.approach import BaseModel

C = TypeVar("C")

Variant = Mapping[str, str]
"""What a configuration makes of an approach, as short texts by aspect:
``{"level": "token", "prompts": "conv1d 32", "scheme": "io"}``."""


def variant_text(variant: Variant) -> str:
    """A variant in one line: ``token, conv1d 32, io``."""
    return ", ".join(variant.values())


@dataclass(frozen=True)
class Control:
    """A run that differs from the approach's default in one thing, to show what that thing does."""

    name: str
    """Name in logs and file names of a study."""
    title: str
    """Title in tables."""
    options: tuple[str, ...]
    """Additional options of train.py (or of test.py, where nothing is trained)."""
    change: Variant
    """The aspects in which its variant differs from the default."""


@dataclass(frozen=True)
class BaseSource:
    """How base models of one family are loaded."""

    load: Callable[[str, str, str | None], BaseModel]
    """Loads a base model from its source (hub id, folder or demo name), kind and, for a hub model, commit."""
    revision: Callable[[str], str]
    """The revision that loading the source now would give, without loading weights."""
    defaults: Mapping[str, str]
    """The default source of each kind."""


@dataclass(frozen=True, kw_only=True)
class ApproachSpec(Generic[C]):
    """One approach. Its ``model.py`` has ``build(config, base, labels)`` and is imported only to build a model."""

    name: str
    """Name of its folder."""
    title: str
    """Title in tables."""
    config: type[C]
    """Its configuration; has ``data``, ``train``, ``runtime`` and ``base_model`` if it trains, else ``dataset``."""
    bases: BaseSource
    """How its base model is loaded."""
    kinds: tuple[str, ...]
    """Kinds of base model that it runs on, each a row in studies and tables; ``--encoder`` chooses among several."""
    variant: Callable[[C], Variant]
    """The variant that a configuration asks for."""
    cost: int
    """Rank among all approaches by the cost of a run; a study runs the cheapest first."""
    variant_settings: frozenset[str] = frozenset()
    """Dotted names of the settings that the variant shows; tables warn where runs differ in any other."""
    tuned: frozenset[str] = frozenset()
    """Aspects that may be tuned to a data set: a variant that differs in these alone still counts as the default."""
    controls: tuple[Control, ...] = ()
    """Control runs."""
    trains: bool = True
    """Whether anything is trained."""
    in_all: bool = True
    """Whether a study of all approaches has it, and tables a row without results; else it is run when it is named, as
    suits a base model that needs a large GPU."""
    few_shot: bool = False
    """Whether a study's few-shot cells include it by default."""
    stores_features: bool = False
    """Whether it trains on stored outputs of a frozen text encoder by default."""
    mixtures: bool = False
    """Whether it can be trained on several data sets at once: neither its loss nor its predictions of a sentence have
    other types than ``Sentence.types``."""
    keeps_zero_shot: bool = False
    """Whether the adapted model can be asked for types that it was not trained on."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Prefixes of parameter names in checkpoints of earlier versions, and the current ones."""
    renamed_settings: Mapping[str, str] = field(default_factory=dict)
    """Names that its settings had in earlier versions, and the current ones."""

    @property
    def savings(self) -> Path:
        """Folder of its runs."""
        return output_root() / self.name / "savings"

    @property
    def test_results(self) -> Path:
        """Folder of its results."""
        return output_root() / self.name / "test_results"

    def kind(self, config: C) -> str:
        """The kind of base model that a configuration asks for."""
        return self.kinds[0] if len(self.kinds) == 1 else str(getattr(config, "encoder"))  # noqa: B009 - C is any dataclass

    def load_base(self, config: C, source: str | None = None, revision: str | None = None) -> BaseModel:
        """Loads the base model of a configuration, or ``source`` in its place.

        Raises:
            InputError: If it cannot be loaded or is of another kind.
        """
        given: Any = config
        return self.bases.load(source or given.base_model, self.kind(config), revision)

    def build(self, config: C, base: BaseModel, labels: LabelSet) -> Any:
        """The model, an ``Approach``; a ``Predictor`` where nothing is trained.

        Raises:
            InputError: If the base model lacks what the approach needs.
        """
        return importlib.import_module(f"{self.name}.model").build(config, base, labels)

    def merge(self, base: BaseModel) -> None:
        """Turns what the approach has added to a base model into weights of that model, in place.

        Its ``model.py`` has ``merge(base)`` if it adds anything.
        """
        merge = getattr(importlib.import_module(f"{self.name}.model"), "merge", None)
        if merge is not None:
            merge(base)

    def plain_config(self, kind: str) -> C:
        """The default configuration with a kind of base model, for any data set."""
        arguments: dict[str, Any] = {"data": DataConfig(("any",))} if self.trains else {"dataset": "any"}
        if len(self.kinds) > 1:
            arguments["encoder"] = kind
        return self.config(**arguments)

    def default_variant(self, kind: str) -> Variant:
        """The variant of the default configuration."""
        return self.variant(self.plain_config(kind))

    def is_default(self, variant: Variant, kind: str) -> bool:
        """Whether a variant is the default one, tuned aspects aside."""
        given, default = (
            {k: v for k, v in item.items() if k not in self.tuned} for item in (variant, self.default_variant(kind))
        )
        return given == default

    def stored_config(self, values: Mapping[str, Any], where: str) -> C:
        """Reads a configuration that a run, result or sweep of this or an earlier version has stored.

        Raises:
            InputError: If a setting is unknown, missing or of a wrong kind.
        """
        current = {self.renamed_settings.get(name, name): value for name, value in values.items()}
        return from_dict(self.config, upgrade(current), where)
