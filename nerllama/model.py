"""NERLlama3.1: a causal language model copies a sentence and marks the entities in the copy.

Legend: R rows (a sentence and a type, or a sentence where one prompt asks for all types), L tokens of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from common.approach import Account, Batch, set_mode
from common.data.dataset import Sentence, parse_span_record, span_record
from common.data.labels import LabelSet, normalise_type
from common.data.spans import ScoredSpan, Span, above, without_overlaps
from common.errors import InputError
from common.models.adapters import add_lora, lora_part, set_adapter_dropout
from common.models.causal_lm import LanguageModel, frozen_dtype, kind_of_device
from common.models.chat import Chat
from common.models.generation import GREEDY, Answer, Generator, Prompt, Sampling
from common.models.losses import IGNORED
from common.schema import check
from nerllama.config import Config, SamplingConfig
from nerllama.marks import STATES, Mark, Reading, marked, named_marks, plain_mark, read
from nerllama.prompts import Pool, example, question, sentence_seed
from nerllama.voting import vote


@dataclass(frozen=True, eq=False)
class EncodedSentence:
    """A sentence's tokens, and those of the answer to each question about it."""

    sentence: Sentence
    n_words: int
    ids: tuple[int, ...]
    answers: Mapping[int, tuple[int, ...]]
    """By the number of the question; a sentence of a mixture is asked for the types of its own data set."""

    @property
    def length(self) -> int:
        """Tokens of the sentence and its answers; instruction and examples are about equally long for all."""
        return len(self.ids) * len(self.answers) + sum(map(len, self.answers.values()))


@dataclass(frozen=True)
class Said:
    """What was said about a sentence."""

    greedy: list[ScoredSpan]
    """The spans of the greedy answers, whatever their probability."""
    readings: list[tuple[Reading, ...]]
    """Of each question: the greedy answer, then the samples."""
    tokens: int
    seconds: float
    stored_seconds: float
    """What the answers took that were there already."""


class _Kept(TypedDict):
    labels: list[str]
    examples: list[dict[str, Any]]


class MarkedCopies(nn.Module):
    """Asks for marked copies; ``forward`` is the cross-entropy of the tokens of the right ones.

    Args:
        base: The base model.
        labels: Entity types.
        config: Settings.

    Raises:
        InputError: If the base model cannot be loaded, or ``max_length`` has no room for a prompt without examples.
    """

    def __init__(self, base: LanguageModel, labels: LabelSet, config: Config) -> None:
        super().__init__()
        self.labels, self.config = labels, config
        self.network: Any = base.network(
            output_layer=True,
            quantization=config.quantization,
            dtype=frozen_dtype(config.runtime),
            device=kind_of_device(config.runtime),
        )
        add_lora(self.network, config.adapters)
        self.parts = (lora_part(self, config.adapter_lr),)
        self.chat = Chat(base.tokenizer)
        self.questions: list[tuple[Mark, ...]] = (
            [named_marks(labels.names)] if config.form == "multi" else [(plain_mark(name),) for name in labels.names]
        )
        self.limit = min(config.max_length, base.limit)
        self.generator = Generator(self.network, base.tokenizer, self.chat.stops, config.rows)
        self.samples, self.sampling = config.samples, _sampling(config.sampling)
        self.threshold = config.vote if config.samples else config.threshold or 0.0
        self.type_thresholds: Mapping[str, float] = {}
        self.tunes_threshold = not config.samples and config.threshold is None
        self._trains = False
        self._pool = Pool([])
        self._examples: list[list[Sentence]] = [[] for _ in self.questions]
        self._tails = [self.chat.ids(self.chat.around(*question(marks, []))[1]) for marks in self.questions]
        self._pairs = [
            max(len(self.chat.ids(mark.before)) + len(self.chat.ids(mark.after)) for mark in marks)
            for marks in self.questions
        ]
        self._heads: dict[int, tuple[int, ...]] = {}
        self._said: dict[tuple[str, ...], Said] | None = None
        self._check_room()
        self.eval()

    def _check_room(self) -> None:
        size = self.config.max_sentence
        for number, marks in enumerate(self.questions):
            needed = len(self._head(marks, [], 0)) + size + len(self._tails[number]) + self.longest(size, number)
            if needed > self.limit:
                most = " (the base model reads no more)" if self.limit < self.config.max_length else ""
                raise InputError(
                    f"--max-length: {self.limit} tokens{most}, but instruction, a sentence of --max-sentence {size} "
                    f"tokens and its copy may need {needed}"
                )

    def longest(self, tokens: int, number: int) -> int:
        """Tokens that the answer to a question may have: the sentence's, marks for one entity in five of them, some.

        A word behind a mark has no space before it, which may take it two tokens more.
        """
        return tokens + (self._pairs[number] + 2) * (tokens // 5 + 2) + 16

    def train(self, mode: bool = True) -> MarkedCopies:
        """Sets the mode of the adapters; the network stays in evaluation mode."""
        # Between two modes weights may change: by steps, or by the best ones being put back.
        self.generator.forget()
        set_mode(self, self.parts, mode)
        set_adapter_dropout(self, mode)
        return self

    # -- data ---------------------------------------------------------------------------------------------------------

    def encode(self, sentences: Sequence[Sentence]) -> list[EncodedSentence]:
        """Tokenises sentences and the right answers; of a sentence that is too long, the words that fit."""
        return [self._encode(sentence) for sentence in sentences]

    def _encode(self, sentence: Sentence) -> EncodedSentence:
        n_words = len(sentence.words)
        text = " ".join(sentence.words)
        tokens = self.chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = tokens["input_ids"]
        if len(ids) > self.config.max_sentence:
            last, behind = tokens["offset_mapping"][self.config.max_sentence - 1 : self.config.max_sentence + 1]
            # Several tokens may share a character, which is then not read.
            cut = min(last[1], behind[0])
            n_words = max(1, len(text[: cut + 1].split(" ")) - 1)
            ids = self.chat.ids(" ".join(sentence.words[:n_words]))[: self.config.max_sentence]
        answers = {
            number: tuple(self.chat.ids(self._right(sentence, n_words, marks)))
            for number, marks in enumerate(self.questions)
            if sentence.types is None or any(mark.label in sentence.types for mark in marks)
        }
        return EncodedSentence(sentence, n_words, tuple(ids), answers)

    def _right(self, sentence: Sentence, n_words: int, marks: Sequence[Mark]) -> str:
        spans = [span for span in sentence.spans if span.end < n_words]
        return marked(sentence.words[:n_words], spans, marks)

    def collate(self, encoded: Sequence[EncodedSentence]) -> Batch:
        """The batch, whose tensors are made when it is known what for: prompts to answer, or answered ones."""
        return Batch(encoded)

    def oracle(self, encoded: EncodedSentence) -> list[Span]:
        """What the right answers are read as, as far as they are generated."""
        words = encoded.sentence.words[: encoded.n_words]
        found = [
            ScoredSpan(span, 1.0)
            for number, ids in encoded.answers.items()
            for span in self._read(ids[: self.longest(len(encoded.ids), number)], words, number)
        ]
        return [item.span for item in without_overlaps(found, len(encoded.sentence.words))]

    def _read(self, ids: Sequence[int], words: Sequence[str], number: int) -> Sequence[Span]:
        return read(self.generator.text(ids), words, self.questions[number]).spans

    def unreachable(self, encoded: EncodedSentence) -> dict[str, int]:
        """Gold spans that the right answers are not read as.

        They are behind the cut, or there is no faithful copy: the text has marks itself or letters that the tokenizer
        does not keep, or so many entities that the answer is too long.
        """
        lost = set(encoded.sentence.spans) - set(self.oracle(encoded))
        cut = sum(span.end >= encoded.n_words for span in lost)
        return {"truncation": cut, "no faithful copy": len(lost) - cut}

    def begin_training(self, encoded: Sequence[EncodedSentence]) -> None:
        """Keeps the training sentences as examples, and draws those of prompts that are to be answered."""
        self._trains = True
        self.generator.progress = self.config.runtime.bars
        self.use_examples([item.sentence for item in encoded], self.config.shots)

    def use_examples(self, sentences: Sequence[Sentence], shots: int) -> None:
        """Draws the examples of prompts from sentences; without sentences prompts have none."""
        self._pool = Pool(sentences)
        self._examples = [
            self._pool.draw(shots, [mark.label for mark in marks], f"{self.config.train.seed}")
            for marks in self.questions
        ]
        self._heads.clear()

    def use_first_examples(self, shots: int) -> None:
        """Leaves out of each question's examples all but the first ones."""
        self._examples = [examples[:shots] for examples in self._examples]
        self._heads.clear()

    def kept(self) -> list[_Kept]:
        """The examples of prompts that are to be answered: a checkpoint answers without its training data."""
        return [
            {
                "labels": [mark.label for mark in marks],
                "examples": [span_record(sentence) for sentence in examples],
            }
            for marks, examples in zip(self.questions, self._examples, strict=True)
        ]

    def restore(self, kept: Any) -> None:
        """Takes the examples of a checkpoint, for the questions whose types it knows by name.

        Raises:
            InputError: If they are something else.
        """
        check(kept, list[_Kept], "kept examples")
        known: dict[tuple[str, ...], list[Sentence]] = {}
        for item in kept:
            try:
                sentences = [parse_span_record(record) for record in item["examples"]]
            except ValueError as error:
                raise InputError(f"kept examples: {error}") from error
            known[tuple(sorted(map(normalise_type, item["labels"])))] = sentences
        for index, marks in enumerate(self.questions):
            names = {normalise_type(mark.label): mark.label for mark in marks}
            self._examples[index] = [_renamed(item, names) for item in known.get(tuple(sorted(names)), [])]
        self._heads.clear()

    def frozen_part(self) -> None:
        """Text is read by trained weights."""
        return

    # -- prompts ------------------------------------------------------------------------------------------------------

    def _head(self, marks: Sequence[Mark], examples: Sequence[Sentence], room: int) -> list[int]:
        """The tokens of a prompt before the sentence: at most ``room``, as far as leaving out examples goes."""
        shown = [example(item, marks) for item in examples]
        while True:
            head = self.chat.ids(self.chat.around(*question(marks, shown))[0])
            if len(head) <= room or not shown:
                return head
            shown.pop()

    def prompt(self, encoded: EncodedSentence, number: int) -> Prompt:
        """The prompt of a question about a sentence."""
        tail = self._tails[number]
        if number not in self._heads:
            size = self.config.max_sentence
            room = self.limit - size - len(tail) - self.longest(size, number)
            self._heads[number] = tuple(self._head(self.questions[number], self._examples[number], room))
        return Prompt(self._heads[number], (*encoded.ids, *tail), self.longest(len(encoded.ids), number))

    def training_row(self, encoded: EncodedSentence, number: int) -> tuple[list[int], int]:
        """The tokens of an answered prompt, and how many of them are the prompt's."""
        marks, answer = self.questions[number], [*encoded.answers[number], *self.chat.end_ids]
        examples = self._pool.draw(
            self.config.training_shots,
            [mark.label for mark in marks],
            f"{sentence_seed(self.config.train.seed, encoded.sentence)}/{number}",
            encoded.sentence,
        )
        behind = [*encoded.ids, *self._tails[number]]
        asked = [*self._head(marks, examples, self.limit - len(behind) - len(answer)), *behind]
        return [*asked, *answer], len(asked)

    # -- forward ------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Tensor:
        """The mean cross-entropy of the tokens that the model is to learn, a scalar in float32."""
        rows = [self.training_row(item, number) for item in batch.encoded for number in item.answers]
        device = self.network.get_input_embeddings().weight.device
        width = max(len(ids) for ids, _ in rows)
        # Answers end together, so that the large output layer reads little else.
        ids = torch.tensor([[0] * (width - len(row)) + row for row, _ in rows], device=device)
        attended = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row, _ in rows], device=device)
        learned = torch.full_like(ids, IGNORED)
        for index, (row, asked) in enumerate(rows):
            first = width - len(row) + (asked if self.config.loss == "answer" else 1)
            learned[index, first:] = ids[index, first:]
        longest = int((learned != IGNORED).sum(dim=1).max())
        logits = self.network(
            input_ids=ids,
            attention_mask=attended,
            position_ids=(attended.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=longest + 1,
        ).logits
        return nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), learned[:, -longest:].flatten(), ignore_index=IGNORED
        )

    # -- prediction ---------------------------------------------------------------------------------------------------

    def answer_with(self, samples: int, vote: float, sampling: SamplingConfig, rows: int) -> None:
        """Changes how prompts are answered; the settings are those of :class:`Config`."""
        if samples or self.config.samples:
            # What a checkpoint has chosen is of its own kind of answers.
            self.threshold, self.type_thresholds = vote if samples else 0.0, {}
        self.samples, self.sampling, self.generator.rows = samples, _sampling(sampling), rows

    @property
    def _votes(self) -> bool:
        # A validation in training would take ``samples`` times as long.
        return self.samples > 0 and not self._trains

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[list[ScoredSpan]]:
        """Spans of each sentence.

        A span's score is its share of the valid samples or, of the greedy answer, the mean probability of the tokens
        of its marked text, the marks included.

        Raises:
            RuntimeError: If the model is in training mode.
        """
        if self.training:
            raise RuntimeError("predict needs the evaluation mode: call eval() first")
        numbers = [GREEDY, *range(1, self.samples + 1)] if self._votes else [GREEDY]
        asked = [
            (self.prompt(item, question), number)
            for item in batch.encoded
            for question in item.answers
            for number in numbers
        ]
        answers = iter(self.generator.answers(asked, self.sampling))
        return [self._spans(item, [[next(answers) for _ in numbers] for _ in item.answers]) for item in batch.encoded]

    def _spans(self, item: EncodedSentence, answers: Sequence[Sequence[Answer]]) -> list[ScoredSpan]:
        """The spans of a sentence from the answers to each question: the greedy one, then the samples."""
        words = item.sentence.words[: item.n_words]
        readings = [
            tuple(read(answer.text, words, self.questions[number], complete=answer.complete) for answer in each)
            for number, each in zip(item.answers, answers, strict=True)
        ]
        greedy = [
            ScoredSpan(found.span, answer.probability(found.start, found.end))
            for answer, reading in ((said[0], read_as[0]) for said, read_as in zip(answers, readings, strict=True))
            for found in reading.found
        ]
        # A sentence that is there twice is answered once.
        if self._said is not None and item.sentence.words not in self._said:
            all_answers = [answer for each in answers for answer in each]
            self._said[item.sentence.words] = Said(
                _flat(greedy, item),
                readings,
                sum(answer.tokens for answer in all_answers),
                sum(answer.seconds for answer in all_answers),
                sum(answer.seconds for answer in all_answers if answer.stored),
            )
        if not self._votes:
            # The threshold of a model that votes is none of greedy answers.
            least = 0.0 if self.config.samples else self.threshold
            return _flat(above(greedy, least, self.type_thresholds), item)
        voted = [span for each in readings for span in vote(each[1:])]
        # At least, so that a vote of 0.6 is three of five.
        return _flat([span for span in voted if span.score >= self.threshold - 1e-9], item)

    # -- account ------------------------------------------------------------------------------------------------------

    def begin_account(self) -> None:
        """From now on, keeps what is said."""
        self._said = {}

    def account(self, encoded: Sequence[EncodedSentence]) -> Account:
        """What was said about sentences since :meth:`begin_account`; asks all processes."""
        assert self._said is not None
        said = self._said
        if PartialState().num_processes > 1:
            said = {words: value for part in gather_object([said]) for words, value in part.items()}
        self._said = None
        entries = [said[item.sentence.words] for item in encoded]
        parts: dict[str, slice] = {"greedy": slice(0, 1)} | ({"samples": slice(1, None)} if self._votes else {})
        tokens, seconds = sum(entry.tokens for entry in said.values()), sum(entry.seconds for entry in said.values())
        counted = {
            name: copies([reading for entry in entries for each in entry.readings for reading in each[part]])
            for name, part in parts.items()
        }
        report: dict[str, Any] = {
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds if seconds else None,
            "examples": [len(examples) for examples in self._examples],
            "copies": counted,
            "summary": [
                f"Generated: {tokens:,} tokens in {seconds:.1f} s.",
                *(f"Copies, {name}: {_shares(counts)}." for name, counts in counted.items()),
            ],
        }
        if self._votes:
            report |= {"samples": self.samples, "vote": self.threshold, "sampling": asdict(self.sampling)}
        return Account(
            report,
            {"greedy": [entry.greedy for entry in entries]} if self._votes else {},
            sum(entry.stored_seconds for entry in said.values()),
        )


def copies(readings: Sequence[Reading]) -> dict[str, Any]:
    """How faithful copies are: their number, the share of each state, and all problems by kind."""
    states = Counter(reading.state for reading in readings)
    problems: Counter[str] = Counter()
    for reading in readings:
        problems.update(reading.problems)
    count = len(readings)
    return {
        "answers": count,
        **{state: states[state] / count if count else None for state in STATES},
        "problems": dict(sorted(problems.items())),
    }


def _shares(counts: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{100 * (counts[state] or 0):.1f} % {state}" for state in STATES)
    return f"{counts['answers']:,} answers, {shares}; problems {counts['problems']}"


def _renamed(sentence: Sentence, names: Mapping[str, str]) -> Sentence:
    """A sentence whose entities' types are spelled as ``names`` has them."""
    spans = (span._replace(label=names.get(normalise_type(span.label), span.label)) for span in sentence.spans)
    return replace(sentence, spans=tuple(spans))


def _sampling(config: SamplingConfig) -> Sampling:
    return Sampling(config.temperature, config.top_p, config.top_k, config.sampling_seed)


def _flat(spans: Sequence[ScoredSpan], item: EncodedSentence) -> list[ScoredSpan]:
    ordered = sorted(spans, key=lambda span: (-span.score, span.span))
    return without_overlaps(ordered, len(item.sentence.words))


def build(config: Config, base: LanguageModel, labels: LabelSet) -> MarkedCopies:
    """The model."""
    return MarkedCopies(base, labels, config)
