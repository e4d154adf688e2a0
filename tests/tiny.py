"""Tiny tokenizers, GLiNER models and a data set, written once a session: the suite needs neither network nor
downloads.
"""

from __future__ import annotations

import copy
import functools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from gliner.config import BiEncoderSpanConfig, UniEncoderSpanConfig
from gliner.model import BiEncoderSpanGLiNER, UniEncoderSpanGLiNER
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, DebertaV2Config, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common.bases import load_base
from common.checkpoint import load_checkpoint, resume_run, start_run
from common.config import DataConfig, RuntimeConfig, TrainConfig
from common.data.dataset import SPLITS, Dataset, Sentence, load_dataset, make_sentence, span_file
from common.data.labels import LabelSet
from common.data.spans import Span
from common.errors import InputError
from common.files import sha256_file, write_json, write_json_records
from common.models.base import Base
from common.paths import CACHE_VARIABLE, OUTPUT_VARIABLE, PROJECT_ROOT
from common.spec import ApproachSpec
from common.training.loop import fit
from common.training.recorder import Recorder
from common.training.run_folder import Run

# GLINER_ADAPTATION_REAL_DATA=FOLDER names a folder with real corpora (data/) and small real bases (models/); without it
# the tests on them are skipped.
REAL = Path(os.environ.get("GLINER_ADAPTATION_REAL_DATA") or os.devnull)
REAL_DATA, REAL_BASES = REAL / "data", REAL / "models"
needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the public corpora are not here")
needs_real_bases = pytest.mark.skipif(not REAL_BASES.is_dir(), reason="the small real bases are not here")


TEXT_LIMIT = 96
"""Sub-words that the tiny text encoders read."""
MAX_WIDTH, MAX_WORDS = 4, 40
HIDDEN, TEXT_WIDTH, LABEL_WIDTH = 24, 32, 20
"""Three widths, so that both projections exist."""
DROPOUT = 0.1

LABELS = LabelSet(
    ("protein", "cell type", "disease"),
    ("A molecule made of amino acids.", "A kind of cell of the body.", "An illness or a disorder."),
    "Any other word.",
)
ENTITIES = {
    "protein": ["IL-2", "NF-kappa B", "p53/mdm2", "α-actin", "interleukin 6 receptor"],
    "cell type": ["T cells", "monocytes", "CD4+ lymphocytes", "naïve B cells"],
    "disease": ["fever", "acute liver failure", "Sjögren's syndrome", "severe acute respiratory distress syndrome"],
}
"""The last disease is five words, wider than the tiny models' maximum width."""
WORDS = [
    "binds",
    "was",
    "seen",
    "in",
    "with",
    "the",
    "and",
    "of",
    "patients",
    ".",
    ",",
    "over-expressed",
    "after",
    "10",
    "°C",
]


# -- sentences --------------------------------------------------------------------------------------------------------


def generated_sentence(generator: random.Random, n_entities: int, touching: bool = False) -> Sentence:
    """Words with entities between them; ``touching`` leaves no word between the first two, which are of one type."""
    words: list[str] = []
    spans: list[Span] = []
    label = ""
    for number in range(n_entities):
        if not (touching and number == 1):
            words += generator.choices(WORDS, k=generator.randint(1, 3))
            label = generator.choice(list(ENTITIES))
        entity = generator.choice(ENTITIES[label]).split()
        spans.append(Span(len(words), len(words) + len(entity) - 1, label))
        words += entity
    return make_sentence([*words, *generator.choices(WORDS, k=generator.randint(1, 4))], spans)


def long_sentence() -> Sentence:
    """More words than the tiny models read, with an entity at both ends."""
    words = ["IL-2", *["the"] * (2 * MAX_WORDS), "fever"]
    return make_sentence(words, [Span(0, 0, "protein"), Span(len(words) - 1, len(words) - 1, "disease")])


def generated_split(size: int, seed: int) -> list[Sentence]:
    """Sentences with 0 to 3 entities; entity-free and touching ones, a wide span and a sentence beyond the limit
    among them.
    """
    generator = random.Random(seed)
    wide = ["the", *ENTITIES["disease"][-1].split(), "."]
    sentences = [make_sentence(wide, [Span(1, 5, "disease")]), long_sentence()]
    sentences += [generated_sentence(generator, index % 4, touching=index % 4 == 3) for index in range(size - 2)]
    return sentences


SIZES = {"train": 40, "validation": 16, "test": 16}


def write_dataset(folder: Path, labels: LabelSet = LABELS, sizes: dict[str, int] | None = None) -> Path:
    """A data set's folder as ``dataset_generation`` leaves it, less the token files."""
    written = {}
    for number, split in enumerate(SPLITS):
        records = [
            {"tokenized_text": sentence.words, "ner": sentence.spans}
            for sentence in generated_split((sizes or SIZES)[split], seed=number)
        ]
        for encoder in ("bi", "cross"):
            path = folder / span_file(split, encoder)
            write_json_records(path, records)
            written[path.name] = {"sha256": sha256_file(path)}
    write_json(folder / "label2id.json", labels.label2id)
    write_json(folder / "label2desc.json", labels.label2desc)
    write_json(folder / "manifest.json", {"files": written})
    return folder


# -- tokenizers and models --------------------------------------------------------------------------------------------

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _wrap(tokenizer: Tokenizer, limit: int) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=limit, **{f"{name}_token": token for name, token in names.items()}
    )


# Trained once on the words of these tests and kept: training breaks ties in another way in each process.
def wordpiece(limit: int) -> PreTrainedTokenizerFast:
    """A BERT tokenizer."""
    return _wrap(Tokenizer.from_file(str(PROJECT_ROOT / "tests" / "data" / "wordpiece.json")), limit)


def unigram(limit: int) -> PreTrainedTokenizerFast:
    """A sentencepiece-like tokenizer, as DeBERTa-v2's."""
    return _wrap(Tokenizer.from_file(str(PROJECT_ROOT / "tests" / "data" / "unigram.json")), limit)


CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level() -> PreTrainedTokenizerFast:
    """A language model's tokenizer: byte-level BPE that joins the words of these tests letter by letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in [*WORDS, *(entity for entities in ENTITIES.values() for entity in entities)]:
        for piece, _ in splitter.pre_tokenize_str(f" {text}"):
            merges |= {(piece[:end], piece[end]): None for end in range(1, len(piece))}
    special = ["<s>", "</s>"]
    pieces = [*special, *alphabet, *dict.fromkeys("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, list(merges)))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, bos_token="<s>", eos_token="</s>", chat_template=CHAT
    )


def save_llama(folder: Path, **settings: Any) -> Path:
    """Builds and saves a random Llama; ``settings`` go over those of its configuration."""
    torch.manual_seed(0)
    tokenizer = byte_level()
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        # As of the encoders.
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **settings,
    }
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _encoder_config(backbone: str, width: int, vocabulary: int) -> dict[str, Any]:
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": TEXT_LIMIT,
        # Large, so that every word and every position matters to the output.
        "initializer_range": 0.1,
        "pad_token_id": 0,
    }
    if backbone == "bert":
        return BertConfig(**shape).to_dict()
    return DebertaV2Config(
        **shape,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
    ).to_dict()


@torch.no_grad()
def enlarge_head(core: torch.nn.Module, factor: float) -> None:
    """Multiplies the span head's weights: random scores hardly differ, these do."""
    for part in (core.span_rep_layer, core.prompt_rep_layer):
        for parameter in part.parameters():
            parameter *= factor if parameter.dim() > 1 else 1


def save_gliner(folder: Path, encoder: str, backbone: str, **settings: Any) -> Path:
    """Builds and saves a random GLiNER; ``settings`` go over those of its configuration."""
    torch.manual_seed(0)
    tokenizer = (wordpiece if backbone == "bert" else unigram)(TEXT_LIMIT)
    shape = {
        "model_name": "tiny-text-encoder",
        "max_width": MAX_WIDTH,
        "max_len": MAX_WORDS,
        "hidden_size": HIDDEN,
        "dropout": DROPOUT,
        "num_rnn_layers": 1,
        "encoder_config": _encoder_config(backbone, TEXT_WIDTH, len(tokenizer)),
        **settings,
    }
    gliner: Any
    if encoder == "bi":
        labels_tokenizer = wordpiece(32)
        label_config = _encoder_config("bert", LABEL_WIDTH, len(labels_tokenizer))
        config = BiEncoderSpanConfig(**shape, labels_encoder="tiny-label-encoder", labels_encoder_config=label_config)
        gliner = BiEncoderSpanGLiNER(config, tokenizer=tokenizer, labels_tokenizer=labels_tokenizer)
    else:
        gliner = UniEncoderSpanGLiNER(UniEncoderSpanConfig(**shape), tokenizer=tokenizer)
        tokenizer.add_tokens([gliner.config.ent_token, gliner.config.sep_token], special_tokens=True)
        gliner.resize_embeddings()
    enlarge_head(gliner.model, 1.5)
    gliner.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random BERT for short texts."""
    folder = tmp_path_factory.mktemp("encoders") / "tiny-encoder"
    torch.manual_seed(0)
    tokenizer = wordpiece(TEXT_LIMIT)
    BertModel(BertConfig(**_encoder_config("bert", TEXT_WIDTH, len(tokenizer)))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


MODELS = ("bi-bert", "bi-deberta", "cross-bert", "cross-deberta")


@pytest.fixture(scope="session")
def gliner_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a tiny base by name (``bi-bert``, ``causal-llama``) and configuration; each is built once."""
    parent = tmp_path_factory.mktemp("bases")

    @functools.lru_cache
    def build(name: str, **settings: Any) -> Path:
        encoder, backbone = name.split("-")
        folder = parent / "_".join([name, *(f"{key}-{value}" for key, value in settings.items())])
        if encoder == "causal":
            return save_llama(folder, **settings)
        return save_gliner(folder, encoder, backbone, **settings)

    return build


@pytest.fixture(scope="session")
def load(gliner_folder: Callable[..., Path]) -> Callable[..., Base]:
    """A newly loaded tiny base by name and configuration, with a head of more extreme scores than the saved one's."""

    def load_tiny(name: str, **settings: Any) -> Base:
        base = load_base(str(gliner_folder(name, **settings)), "bi" if name.startswith("bi") else "cross")
        enlarge_head(base.core, 1.4)
        return base

    return load_tiny


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small data set called ``tiny``."""
    return write_dataset(tmp_path_factory.mktemp("datasets") / "tiny")


@pytest.fixture(scope="session")
def data(dataset_path: Path) -> Dataset:
    """The data set."""
    return load_dataset(str(dataset_path))


# -- runs -------------------------------------------------------------------------------------------------------------

RUNTIME = RuntimeConfig(precision="fp32", device="cpu", eval_batch_size=8, progress=False)
QUICK = ["--precision", "fp32", "--device", "cpu", "--no-progress"]
"""The same as options of a script."""


def message_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one line of the input error that a call ends with."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wait_until(condition: Callable[[], Any], seconds: float = 30.0, pause: float = 0.02) -> Any:
    """Waits until something is true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(pause)
    return found


def python(
    *arguments: object, cwd: Path = PROJECT_ROOT, timeout: float = 200, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs another Python to its end, by default in the project's folder."""
    command, given = [sys.executable, *map(str, arguments)], os.environ | environment
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written into the project, and accelerate starts anew."""
    monkeypatch.setenv(OUTPUT_VARIABLE, str(tmp_path / "output"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    # Nothing here outlives a loss of power.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where savings and results of this test go."""
    return tmp_path / "output"


class Killed(Exception):
    """Stands for the end of the process."""


class Trial:
    """Training of an approach on the tiny data, as its train.py does it but without a command line."""

    def __init__(self, spec: ApproachSpec, base: Path, data: Dataset, dataset: Path, **settings: Any) -> None:
        train = {"epochs": 2, "batch_size": 8, "seed": 1} | settings.pop("train", {})
        self.spec, self.data = spec, data
        self.config = spec.config(
            data=DataConfig(str(dataset)),
            train=TrainConfig(**train),
            runtime=settings.pop("runtime", RUNTIME),
            base_model=str(base),
            **settings,
        )

    def base(self) -> Base:
        return self.spec.load_base(self.config)

    def base_folder(self) -> Path:
        return Path(self.config.base_model)

    def model(self, labels: LabelSet | None = None) -> Any:
        torch.manual_seed(self.config.train.seed)
        return self.spec.build(self.config, self.base(), labels or self.data.labels)

    def named_base(self) -> Base:
        """What a run's record says of the base, without loading it."""
        source, kind = self.config.base_model, self.spec.kind(self.config)
        return Base(None, kind, source, str(Path(source).resolve()), self.spec.bases.revision(source))

    def start(self) -> Run:
        return start_run(self.spec, self.config, self.data, self.named_base())

    def fit(self, model: Any, run: Run, **more: Any) -> Run:
        return fit(model, self.data, self.config.train, self.config.runtime, run, **more)

    def train(self, **more: Any) -> tuple[Any, Run]:
        model = self.model()
        return model, self.fit(model, self.start(), **more)

    def killed(self, when: Callable[[dict], bool] = lambda entry: True) -> Run:
        """A run whose process ends with the first validation of which something is true, state and weights stored."""

        def end(entry: dict) -> None:
            if when(entry):
                raise Killed

        run = self.start()
        with pytest.raises(Killed):
            self.fit(self.model(), run, on_validation=end)
        return run

    def load(self, run: Run) -> Any:
        return load_checkpoint(self.spec, run.path).model

    def resume(self, which: str | Path) -> tuple[Any, Run]:
        """Goes on with a run in a new model, as a new process would."""
        model = self.model()
        return model, self.fit(model, resume_run(self.spec, self.config, self.data, self.named_base(), str(which)))

    def but(self, **changes: Any) -> Trial:
        """The same with other sentences (``data=``), or with other settings of the loop."""
        other = copy.copy(self)
        other.data = changes.pop("data", self.data)
        other.config = replace(self.config, train=replace(self.config.train, **changes))
        return other


@pytest.fixture(scope="session")
def trial(gliner_folder: Callable[..., Path], data: Dataset, dataset_path: Path) -> Callable[..., Trial]:
    """Makes a :class:`Trial`: ``trial(SPEC, "bi-bert", train={"epochs": 1}, base_settings={"dropout": 0.0})``."""

    def make(spec: ApproachSpec, base: str, **settings: Any) -> Trial:
        folder = gliner_folder(base, **settings.pop("base_settings", {}))
        return Trial(spec, folder, data, dataset_path, **settings)

    return make


def predictions(model: Any, sentences: Sequence[Sentence], size: int = 8) -> list[list]:
    """The model's spans with their scores, in evaluation mode."""
    model.eval()
    encoded = model.encode(sentences)
    found = []
    for first in range(0, len(encoded), size):
        found += model.predict(model.collate(encoded[first : first + size]))
    return found


def set_threshold(model: Any, sentences: Sequence[Sentence]) -> None:
    """Sets a threshold that about one span in ten passes, in the widest gap there, so that rounding changes no
    prediction.

    A model that takes the best class has no threshold and stays as it is; so does one whose answers are generated.
    """
    model.eval()
    if not hasattr(model, "threshold") or hasattr(model, "generator"):
        return
    short = [sentence for sentence in sentences if len(sentence.words) < MAX_WORDS]
    if getattr(model, "scheme", None) == "bio":
        # Its scores are not of single spans: those of the spans that it predicts at the lowest threshold.
        model.threshold = 0.0
        scores = torch.tensor(sorted(item.score for spans in predictions(model, short) for item in spans)).logit()
        _set_in_widest_gap(model, scores.flip(0), len(scores) // 3, 2 * len(scores) // 3)
        return
    with torch.no_grad():
        logits = torch.cat([model.logits(model.collate([item])).flatten() for item in model.encode(short)])
    scores = logits[logits.isfinite()].sort(descending=True).values
    _set_in_widest_gap(model, scores, len(scores) // 15, len(scores) // 7)


def _set_in_widest_gap(model: Any, scores: torch.Tensor, first: int, last: int) -> None:
    """Sets the threshold between two of some logits, which descend."""
    widest = first + int((scores[first:last] - scores[first + 1 : last + 1]).argmax())
    model.threshold = float((scores[widest] + scores[widest + 1]).div(2).sigmoid())


def give_answers(model: Any, sentences: Sequence[Sentence], folder: Path) -> None:
    """Puts the right answers in place of those that a tiny model would generate, with probabilities of all sizes."""
    from common.models.generation import GREEDY, AnswerStore, answer_key

    model.generator.store = AnswerStore(folder, {})
    generator = random.Random(0)
    for item in model.encode(sentences):
        for number, ids in item.answers.items():
            key = answer_key(model.prompt(item, number), GREEDY, model.sampling)
            said = [*ids, *model.chat.end_ids]
            likely = [round(generator.random(), 4) for _ in said]
            line = {"key": key, "ids": said, "probabilities": likely, "complete": True, "seconds": 0.1}
            model.generator.store.add([line])


def spans_of(found: Sequence[Sequence]) -> list[list[Span]]:
    """Predictions without scores, sorted."""
    return [sorted(item.span for item in sentence) for sentence in found]


@pytest.fixture
def scripted(monkeypatch):
    """Gives validations the scores of a list, one after another; that of the untrained model is by itself."""

    def script(*scores, untrained=0.0, **named):
        named = named or dict.fromkeys(("macro_f1", "micro_f1"), scores)
        rows = [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]
        before = {name: 1e9 if name == "loss" else untrained for name in named}
        values = iter([before, *rows])
        monkeypatch.setattr(Recorder, "validate", lambda self: next(values) | {"seconds": 0.0})

    return script
