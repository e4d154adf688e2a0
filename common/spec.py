"""What everything else asks of an approach: the ``SPEC`` in its folder's ``spec.py`` says it, and nothing heavy is imported to say it.

Study, sweeps, tables and benchmark know approaches through their specifications only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from common.config import DataConfig, from_dict, upgrade
from common.data.labels import LabelSet
from common.paths import output_root

if TYPE_CHECKING:
    from common.approach import BaseModel

C = TypeVar("C")

Variant = Mapping[str, str]
"""What a configuration makes of an approach, as short texts by aspect: ``{"level": "token", "prompts": "conv1d 32", "scheme": "io"}``."""


def variant_text(variant: Variant) -> str:
    """A variant in one line: ``token, conv1d 32, io``."""
    return ", ".join(variant.values())


@dataclass(frozen=True)
class Control:
    """A run that differs from the approach's default in one thing, to show what that thing does."""

    name: str
    """In logs and file names of a study."""
    title: str
    """In tables."""
    options: tuple[str, ...]
    """What its train.py (or test.py, where nothing is trained) is told beside the rest."""
    change: Variant
    """How its variant differs from the default's."""


@dataclass(frozen=True)
class BaseSource:
    """How base models of one family are loaded."""

    load: Callable[[str, str, str | None], BaseModel]
    """Loads a base model from its source (hub id, folder or demo name), kind and, for a hub model, commit."""
    revision: Callable[[str], str]
    """The revision that loading the source now would give, without loading weights."""
    defaults: Mapping[str, str]
    """The source of each kind that is meant where none is given."""


@dataclass(frozen=True, kw_only=True)
class ApproachSpec(Generic[C]):
    """One approach. Its ``model.py`` has ``build(config, base, labels)``, imported when a model is made."""

    name: str
    """Its folder."""
    title: str
    """Its name in tables."""
    config: type[C]
    """Its configuration. One that trains has ``data``, ``train``, ``runtime`` and ``base_model``; one that does not has ``dataset``."""
    bases: BaseSource
    """How its base model is loaded."""
    kinds: tuple[str, ...]
    """Kinds of base model that it runs on, each a row of its own in studies and tables; chosen by ``--encoder`` if there are several."""
    variant: Callable[[C], Variant]
    """The variant that a configuration asks for."""
    cost: int
    """Place among all approaches by the cost of a run; a study does the cheap ones first."""
    variant_settings: frozenset[str] = frozenset()
    """Dotted settings that the variant tells of: runs that differ in another one differ silently, and tables say so."""
    tuned: frozenset[str] = frozenset()
    """Aspects of the variant that may be tuned for a data set and are the default all the same."""
    controls: tuple[Control, ...] = ()
    """Control runs."""
    trains: bool = True
    """Whether anything is trained."""
    few_shot: bool = False
    """Whether it is in a study's few-shot cells unless those are named."""
    stores_features: bool = False
    """Whether it trains on stored outputs of a frozen text encoder by default."""
    keeps_zero_shot: bool = False
    """Whether the adapted model can be asked for types that it was not trained on."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Prefixes of parameter names in checkpoints of earlier versions, and what they are now."""

    @property
    def savings(self) -> Path:
        """Where its runs are."""
        return output_root() / self.name / "savings"

    @property
    def test_results(self) -> Path:
        """Where its results are."""
        return output_root() / self.name / "test_results"

    def kind(self, config: C) -> str:
        """The kind of base model that a configuration asks for."""
        return self.kinds[0] if len(self.kinds) == 1 else str(getattr(config, "encoder"))  # noqa: B009 - C is any dataclass

    def load_base(self, config: C, source: str | None = None, revision: str | None = None) -> BaseModel:
        """The base model of a configuration, or of ``source`` in its place.

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

    def plain_config(self, kind: str) -> C:
        """The approach's own settings with a kind of base model, for any data set."""
        arguments: dict[str, Any] = {"data": DataConfig("any")} if self.trains else {"dataset": "any"}
        if len(self.kinds) > 1:
            arguments["encoder"] = kind
        return self.config(**arguments)

    def default_variant(self, kind: str) -> Variant:
        """The variant of the approach's own settings."""
        return self.variant(self.plain_config(kind))

    def is_default(self, variant: Variant, kind: str) -> bool:
        """Whether a variant stands for the approach itself."""
        given, default = (
            {k: v for k, v in item.items() if k not in self.tuned} for item in (variant, self.default_variant(kind))
        )
        return given == default

    def settings(self, name: str) -> bool:
        """Whether its configuration has a setting or a group of settings of this name."""
        return any(field.name == name for field in fields(self.config))  # type: ignore[arg-type]

    def stored_config(self, values: Mapping[str, Any], where: str) -> C:
        """A configuration as a run, a result or a sweep of this or an earlier version has stored it.

        Raises:
            InputError: If a setting is unknown, missing or of a wrong kind.
        """
        return from_dict(self.config, upgrade(values), where)
