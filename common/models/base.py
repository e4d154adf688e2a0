"""A loaded GLiNER base model and the names of its parts."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from common.models.published import base_name

PARTS = {
    "text encoder": "token_rep_layer.bert_layer",
    "text projection": "token_rep_layer.projection",
    "label encoder": "token_rep_layer.labels_encoder",
    "label projection": "token_rep_layer.labels_projection",
    "BiLSTM": "rnn",
    "cross fuser": "cross_fuser",
    "span_rep_layer": "span_rep_layer",
    "prompt_rep_layer": "prompt_rep_layer",
}
"""Where gliner keeps each part, as paths inside the core model."""


NO_LIMIT = 2**31 - 1
"""Sub-words that a tokenizer without a limit cuts at; its own word for that, 1e30, is more than it takes itself."""


@dataclass(frozen=True)
class Base:
    """A loaded GLiNER base model."""

    gliner: Any
    """gliner's wrapper: processor, tokenizers, decoder, ``save_pretrained``."""
    kind: str
    """``bi`` or ``cross``: the kind of encoder."""
    source: str
    """Hub id, folder or demo name, as the user gave it."""
    location: str
    """Hub id, demo name or absolute path: what loads it again from any working directory."""
    revision: str
    """Commit of a hub model, or ``sha256:`` of a local model's weights."""

    @property
    def name(self) -> str:
        """Hub id or folder name, as results show it."""
        return base_name(self.source)

    @property
    def core(self) -> Any:
        """The ``nn.Module`` with the weights."""
        return self.gliner.model

    @property
    def config(self) -> Any:
        """The configuration of gliner's model."""
        return self.gliner.config

    @property
    def encoder_settings(self) -> str:
        """The text encoder's configuration as JSON, without the name that it was loaded by."""
        values = self.config.encoder_config
        values = values if isinstance(values, dict) else values.to_dict()
        return json.dumps(
            {name: value for name, value in values.items() if name != "_name_or_path"}, default=str, sort_keys=True
        )

    def has(self, part: str) -> bool:
        """Whether the base has a part of :data:`PARTS`."""
        return _find(self.core, PARTS[part]) is not None

    def part(self, part: str) -> Any:
        """A part of :data:`PARTS`.

        Raises:
            InputError: If this base has no such part; the message names both.
        """
        module = _find(self.core, PARTS[part])
        if module is None:
            raise InputError(f"base model {self.source!r} ({type(self.gliner).__name__}) has no {part} ({PARTS[part]})")
        return module


def _find(module: Any, path: str) -> Any:
    return functools.reduce(lambda found, name: getattr(found, name, None), path.split("."), module)
