"""Small GLiNER models for the demo and for machines without the hub: all-MiniLM-L6-v2 encoders, pretrained for about a minute.

They are pretrained on the embedded demo corpora's *other* entity types (species, anatomy, ...), so that the types of the two
benchmarks are as new to them as to a published GLiNER. Built once and cached in ``demo/bases``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from gliner.config import BiEncoderSpanConfig, UniEncoderSpanConfig
from gliner.model import BiEncoderSpanGLiNER, UniEncoderSpanGLiNER
from transformers import AutoTokenizer

from common.approach import TrainedPart
from common.config import RuntimeConfig, TrainConfig
from common.data.dataset import Dataset, Sentence, sample
from common.data.labels import LabelSet
from common.data.spans import Span
from common.device import seed_everything
from common.errors import InputError
from common.files import sha256_file
from common.models.published import DEMO_BASES, MINILM_ID, packaged_minilm
from common.paths import output_root

logger = logging.getLogger(__name__)

ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the encoder's weights file."""

MAX_WIDTH = 12
DROPOUT = 0.3
PRETRAINING_SENTENCES = 1000
PRETRAINING = TrainConfig(epochs=2, batch_size=16, patience=0, warmup_ratio=0.1, seed=7)
ENCODER_LR, HEAD_LR = 5e-5, 1e-3

TYPES = {
    "species": "species",
    "tissue": "anatomy",
    "organ": "anatomy",
    "laboratory method": "laboratory method",
    "biological process": "biological process",
    "dosage": "dosage",
    "patient group": "patient group",
    "clinical procedure": "clinical procedure",
}
"""Types of the demo corpora that the bases are pretrained on, and the names that they are asked by. The corpora call one thing by
two names (tissue, organ). Left out are types that are another corpus's benchmark types, or half of one (gene)."""


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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(MINILM_ID, allow_patterns=["*.json", "model.safetensors", "vocab.txt"]))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"the demo bases need the encoder {MINILM_ID}, and the hub is out of reach: pip install -e .[demo] brings it"
        ) from error


def demo_base_dir(name: str) -> Path:
    """The folder of a demo base; builds and pretrains it at the first call."""
    target = output_root() / "demo" / "bases" / f"{name}-{_fingerprint(name)}"
    if not (target / "gliner_config.json").is_file():
        logger.info("building %s: pretraining a small GLiNER on the demo corpora's other types, once", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            _build(DEMO_BASES[name], Path(folder) / "base")
            try:
                os.replace(Path(folder) / "base", target)
            except OSError:
                # Another process was faster; what it built is as good.
                if not (target / "gliner_config.json").is_file():
                    raise
    return target


def _fingerprint(name: str) -> str:
    """Changes with the data and the settings that the base is made from."""
    data = _pretraining_data()
    settings = [name, data.sha256, repr(PRETRAINING), ENCODER_LR, HEAD_LR, MAX_WIDTH, DROPOUT, ENCODER_SHA256]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


def _pretraining_data() -> Dataset:
    from dataset_generation.demo import pretraining_sentences
    from dataset_generation.sources import BENCHMARKS

    sentences = []
    for corpus in BENCHMARKS:
        for sentence in pretraining_sentences(corpus):
            spans = tuple(
                Span(span.start, span.end, TYPES[span.label]) for span in sentence.spans if span.label in TYPES
            )
            sentences.append(Sentence(sentence.words, spans))
    sentences = sample(sentences, PRETRAINING_SENTENCES, PRETRAINING.seed, "sentences")
    names = tuple(sorted(set(TYPES.values())))
    digest = hashlib.sha256(json.dumps(sentences, default=lambda item: item.__dict__).encode()).hexdigest()
    # Every tenth sentence only watches over the pretraining.
    held_out = sentences[::10]
    kept = [sentence for index, sentence in enumerate(sentences) if index % 10]
    return Dataset("demo", LabelSet(names, names, "other"), kept, held_out, held_out, digest)


def _build(encoder: str, target: Path) -> None:
    from common.models.base import PARTS, Base
    from common.models.span_model import SpanModel
    from common.training.loop import fit
    from common.training.run_folder import Run

    data = _pretraining_data()
    seed_everything(PRETRAINING.seed)
    gliner = _untrained(encoder, str(encoder_dir()))
    base = Base(gliner, encoder, f"demo-{encoder}", f"demo-{encoder}", "untrained")
    heads = [name for name in ("span_rep_layer", "prompt_rep_layer", "BiLSTM") if base.has(name)]
    parts = (
        TrainedPart("encoders", ("core.token_rep_layer",), ENCODER_LR),
        TrainedPart("others", tuple(f"core.{PARTS[name]}" for name in heads), HEAD_LR),
    )
    model = SpanModel(base, data.labels, data.labels.names)
    model.declare(*parts)
    with tempfile.TemporaryDirectory() as folder:
        fit(model, data, PRETRAINING, RuntimeConfig(), Run(Path(folder), {}))
    # The encoders were loaded from a folder of this machine; the saved model names where they come from.
    gliner.config.model_name = MINILM_ID
    gliner.config.encoder_config._name_or_path = MINILM_ID
    if encoder == "bi":
        gliner.config.labels_encoder = MINILM_ID
        gliner.config.labels_encoder_config._name_or_path = MINILM_ID
    gliner.save_pretrained(target, safe_serialization=True)


def _untrained(encoder: str, folder: str) -> BiEncoderSpanGLiNER | UniEncoderSpanGLiNER:
    """A GLiNER with MiniLM encoders and a random span head."""
    shape = {"max_width": MAX_WIDTH, "hidden_size": 384, "dropout": DROPOUT, "model_name": folder}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if encoder == "bi":
        # gliner never calls a bi-encoder's BiLSTM; without layers it is not built.
        config = BiEncoderSpanConfig(**shape, labels_encoder=folder, num_rnn_layers=0)
        return BiEncoderSpanGLiNER(config, tokenizer=tokenizer, backbone_from_pretrained=True)
    gliner = UniEncoderSpanGLiNER(
        UniEncoderSpanConfig(**shape, num_rnn_layers=1), tokenizer=tokenizer, backbone_from_pretrained=True
    )
    tokenizer.add_tokens([gliner.config.ent_token, gliner.config.sep_token], special_tokens=True)
    gliner.resize_embeddings()
    return gliner
