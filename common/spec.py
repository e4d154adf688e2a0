"""What everything else asks of an approach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.data.dataset import Encoder
from common.data.labels import LabelSet
from common.models.base import Base
from common.paths import output_root

C = TypeVar("C")


@dataclass(frozen=True)
class ApproachSpec(Generic[C]):
    """How the shared entry points find an approach."""

    name: str
    """Its folder."""
    title: str
    """Its name in tables."""
    config: type[C]
    """Its configuration; has ``data``, ``train``, ``runtime`` and ``base_model``."""
    build: Callable[[C, Base, LabelSet], Any]
    """Makes the model (an ``Approach``) from configuration, base and label set."""
    variant: Callable[[C], str]
    """Short name of the variant that a configuration asks for."""
    encoder: Callable[[C], Encoder]
    """Kind of base model that a configuration asks for."""

    @property
    def savings(self) -> Path:
        """Where its runs are."""
        return output_root() / self.name / "savings"

    @property
    def test_results(self) -> Path:
        """Where its results are."""
        return output_root() / self.name / "test_results"
