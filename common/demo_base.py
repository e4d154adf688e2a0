"""Small GLiNER models for the demo and for machines without the hub: all-MiniLM-L6-v2 encoders, shortly pretrained.

They are pretrained on general sentences with 60 types of names, from rivers to vital signs, so that the types of the
two benchmarks are as new to them as to a published GLiNER. Built once and cached in ``demo/bases``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import get_linear_schedule_with_warmup

from common.approach import TrainedPart
from common.config import on_screen
from common.data.dataset import Sentence
from common.data.labels import LabelSet
from common.data.spans import Span
from common.device import seed_everything
from common.errors import InputError
from common.files import built_once, sha256_file
from common.hub import TEXT_FILES, snapshot
from common.models import fresh
from common.models.published import DEMO_BASES, MINILM_ID, packaged_minilm
from common.paths import output_root
from dataset_generation.demo import pretraining_sentences

if TYPE_CHECKING:
    from common.models.base import Base

logger = logging.getLogger(__name__)

ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the encoder's weights file."""

DROPOUT = 0.1

TYPES_ASKED = 16
"""Types that a batch of the pretraining is asked for: those in it and others, drawn anew each time, so that the model
learns to read their names."""


@dataclass(frozen=True)
class Pretraining:
    """How a demo base is made."""

    steps: int = 120
    batch_size: int = 4
    joined: int = 2
    """Sentences that are read as one, as the prompt of a cross-encoder costs more than a short sentence."""
    copies: int = 8
    """Fillings of each general frame."""
    encoder_lr: float = 1e-4
    head_lr: float = 2e-4
    weight_decay: float = 0.01
    focal_alpha: float = 0.95
    """Weight of the positives; makes up for a new type's scores, which are lower than those of the pretraining."""
    score_scale: float = 0.5
    score_offset: float = 8.0
    """A pair's score before the first step is scale x (span . type) - offset. All-MiniLM-L6-v2 gives a product of about
    0 to a pair that does not belong together and of about 13 to one that does."""
    seed: int = 7


def encoder_dir() -> Path:
    """The folder of the all-MiniLM-L6-v2 encoder: from the optional package, else from the hub.

    Raises:
        InputError: If neither has it, or its weights are not the published ones.
    """
    folder = packaged_minilm() or _encoder_from_hub()
    digest = sha256_file(folder / "model.safetensors")
    if digest != ENCODER_SHA256:
        raise InputError(f"{folder / 'model.safetensors'}: SHA-256 is {digest}, expected {ENCODER_SHA256}")
    return folder


def _encoder_from_hub() -> Path:
    try:
        return snapshot(MINILM_ID, [*TEXT_FILES, "model.safetensors"])
    except InputError as error:
        raise InputError(
            f"the demo bases need the encoder {MINILM_ID}: {error}; or pip install -e '.[demo]', which brings it"
        ) from error


def demo_base_dir(name: str) -> Path:
    """The folder of a demo base; builds and pretrains it at the first call."""
    folder = output_root() / "demo" / "bases" / f"{name}-{_fingerprint(name)}"
    return built_once(folder, "gliner_config.json", functools.partial(_build, DEMO_BASES[name]))


def _fingerprint(name: str) -> str:
    """Changes with the data, the settings and the code that the base is made from."""
    sentences = repr(pretraining_sentences(Pretraining.copies))
    code = [Path(str(file)).read_text(encoding="utf-8") for file in (__file__, fresh.__file__)]
    return hashlib.sha256(json.dumps([name, sentences, *code]).encode()).hexdigest()[:12]


def _build(kind: str, target: Path) -> None:
    from common.models.base import Base

    logger.info("building demo-%s: pretraining a small GLiNER on general types of names, once", kind)
    settings = Pretraining()
    seed_everything(settings.seed)
    gliner: Any = _untrained(kind)
    _compare_in_the_encoders_space(gliner.model, settings)
    _pretrain(Base(gliner, kind, f"demo-{kind}", f"demo-{kind}", "untrained"), settings)
    gliner.save_pretrained(target, safe_serialization=True)


def _untrained(kind: str) -> Any:
    """A GLiNER with MiniLM encoders and a random span head; a BiLSTM would hide the encoders' space from the head."""
    settings: dict[str, Any] = {"dropout": DROPOUT, "num_rnn_layers": 0, "subtoken_pooling": "mean"}
    # A type is read off its name's first sub-word: the marker before it is a new token, which means nothing to MiniLM.
    settings |= {"embed_ent_token": False} if kind == "cross" else {}
    return fresh.fresh_gliner(kind, encoder_dir(), MINILM_ID, **settings)


@torch.no_grad()
def _compare_in_the_encoders_space(core: Any, settings: Pretraining) -> None:
    """Starts the span head with what MiniLM knows: a span and a type of like meaning have a high product.

    Each of the head's MLPs becomes the identity, x = relu(x) - relu(-x), in half of its hidden units; the other half
    stays random and is free to learn. The head cuts the words' MLPs at zero, so the span takes its positive coordinates
    from its first word and its negative ones from its last. Coordinate 0 holds the offset.
    """
    marker = core.span_rep_layer.span_rep_layer
    eye = torch.eye(marker.out_project[3].out_features)
    _as_linear(marker.project_start, eye)
    _as_linear(marker.project_end, -eye)
    _as_linear(marker.out_project, settings.score_scale * torch.cat([eye, -eye], dim=1))
    _as_linear(core.prompt_rep_layer, eye)
    for mlp, constant in ((marker.out_project, -settings.score_offset), (core.prompt_rep_layer, 1.0)):
        mlp[3].weight[0], mlp[3].bias[0] = 0.0, constant


def _as_linear(mlp: Any, matrix: Tensor) -> None:
    """Makes an MLP of gliner's, Linear, ReLU, dropout, Linear, the product with a matrix."""
    first, last = mlp[0], mlp[3]
    rows = matrix.shape[0]
    first.weight[: 2 * rows] = torch.cat([matrix, -matrix])
    first.bias[: 2 * rows] = 0.0
    last.weight.zero_()
    last.weight[:, : 2 * rows] = torch.cat([torch.eye(rows), -torch.eye(rows)], dim=1)
    last.bias.zero_()


def _pretrain(base: Base, settings: Pretraining) -> None:
    """Trains all of a base. Not by the common loop, as the types that are asked for change from batch to batch."""
    from common.models.span_model import SpanModel

    rng = random.Random(settings.seed)
    sentences = pretraining_sentences(settings.copies)
    names = sorted({span.label for sentence in sentences for span in sentence.spans})
    core = base.core
    encoders = list(core.token_rep_layer.parameters())
    heads = [*core.span_rep_layer.parameters(), *core.prompt_rep_layer.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": encoders, "lr": settings.encoder_lr}, {"params": heads, "lr": settings.head_lr}],
        weight_decay=settings.weight_decay,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, settings.steps // 10, settings.steps)
    waiting: list[Sentence] = []
    for _ in tqdm(range(settings.steps), desc=f"pretraining demo-{base.kind}", leave=False, disable=not on_screen()):
        if len(waiting) < settings.batch_size * settings.joined:
            waiting = rng.sample(sentences, len(sentences))
        group = [_joined([waiting.pop() for _ in range(settings.joined)]) for _ in range(settings.batch_size)]
        asked = _types_to_ask(group, names, rng)
        kept = [Sentence(s.words, tuple(span for span in s.spans if span.label in asked)) for s in group]
        model = SpanModel(base, LabelSet(asked, asked, "other"), asked, focal_alpha=settings.focal_alpha)
        model.declare(TrainedPart("all", ("core",), settings.head_lr))
        model.train()
        loss = model(model.collate(model.encode(kept)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*encoders, *heads], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)


def _joined(sentences: Sequence[Sentence]) -> Sentence:
    """Sentences one after another, as one."""
    words: list[str] = []
    spans: list[Span] = []
    for sentence in sentences:
        spans += [Span(start + len(words), end + len(words), label) for start, end, label in sentence.spans]
        words += sentence.words
    return Sentence(tuple(words), tuple(spans))


def _types_to_ask(group: Sequence[Sentence], names: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """Types that occur in the sentences, filled up with others, in random order."""
    present = sorted({span.label for sentence in group for span in sentence.spans})
    asked = rng.sample(present, min(len(present), TYPES_ASKED))
    asked += rng.sample(sorted(set(names) - set(asked)), TYPES_ASKED - len(asked))
    rng.shuffle(asked)
    return tuple(asked)
