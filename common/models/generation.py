"""A causal language model's answers to prompts: in batches, greedy or sampled, each generated only once.

An answer depends on its prompt, its number among the samples and the model, never on the rest of its batch: each sample
draws its random numbers from its own seed. So what a killed process has generated is what a new one would generate, and
is not generated again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from common.errors import InputError
from common.files import content_hash, errors_at, parse_json, write_json
from common.models.cache import bears_gap, for_rows
from common.schema import Count, Seconds, Share, check

logger = logging.getLogger(__name__)

GREEDY = 0
"""Number of the greedy answer; samples are numbered from 1."""

_KEPT_HEADS = 64
"""Beginnings of prompts whose keys and values are kept; with the same examples for all, there is one for each type."""


class Prompt(NamedTuple):
    """Token ids of a prompt, and how long its answer may be."""

    head: tuple[int, ...]
    """Its beginning, which many prompts share: it is read once for all of them."""
    rest: tuple[int, ...]
    """All behind that, at least one."""
    longest: int
    """Tokens of the answer, at most."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: at a temperature, from the likeliest tokens, and of those from the fewest that suffice."""

    temperature: float = 1.0
    """Divisor of the logits."""
    top_p: float = 0.95
    """Probability that the tokens have together (Holtzman et al. 2020)."""
    top_k: int = 30
    """Number of tokens before that; 0: all."""
    seed: int = 42
    """Of all samples."""


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    complete: bool
    """Whether it came to its own end."""
    probabilities: tuple[float, ...]
    """For each token of the text its probability to the model, at temperature 1."""
    tokens: int
    """All tokens that were generated, that of its end too."""
    seconds: float
    """Its share of the time that its batch took."""
    stored: bool
    """Whether it was there already."""
    text_of: Callable[[int], str]
    """The text of its first tokens."""

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """For each token the number of characters of the text up to its end."""
        # A token may hold a part of a character, which decodes to another length.
        counts = range(1, len(self.probabilities) + 1)
        return tuple(min(len(self.text_of(count)), len(self.text)) for count in counts)

    def probability(self, start: int, end: int) -> float:
        """The mean probability of the tokens that have a part in ``text[start:end]``; 0 if there are none."""
        ranges = zip((0, *self.ends), self.ends, self.probabilities, strict=False)
        inside = [likely for first, last, likely in ranges if first < end and last > start]
        return sum(inside) / len(inside) if inside else 0.0


class _Line(TypedDict):
    key: str
    ids: list[Count]
    probabilities: list[Share]
    complete: bool
    seconds: Seconds


class AnswerStore:
    """Answers by what they depend on, in memory and, if there is a folder, in a file of it that grows by batches.

    The file is known by the settings that all its answers share, such as the hash of the weights; these are in a file
    beside it. Both may be deleted at any time. Processes that write the same file at a time do no harm: each batch is
    written at once, and the same answer twice is the same answer.

    Args:
        folder: Where the file is; None keeps answers in memory alone.
        settings: What the answers depend on beside prompt and sampling, as JSON has it.

    Raises:
        InputError: If the file cannot be read.
    """

    def __init__(self, folder: Path | None = None, settings: Mapping[str, Any] | None = None) -> None:
        self._lines: dict[str, _Line] = {}
        self.path: Path | None = None
        self._begun = False
        if folder is None:
            return
        self.path = folder / f"{content_hash(settings)[:32]}.jsonl"
        write_json(self.path.with_suffix(".json"), settings)
        self._read(self.path)

    def _read(self, path: Path) -> None:
        with errors_at(path):
            lines = path.read_bytes().splitlines() if path.exists() else []
        damaged = []
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                value = parse_json(line.decode())
                check(value, _Line, "answer")
                if len(value["ids"]) != len(value["probabilities"]):
                    raise ValueError("ids and probabilities differ in number")
            except ValueError:
                damaged.append(number)
            else:
                self._lines[value["key"]] = value
        if damaged:
            # A killed process may have left a part of its last line.
            logger.warning("%s: generated again are the answers of %d lines that are not whole: %s", path, len(damaged),
                           damaged[:5])  # fmt: skip
        if lines:
            logger.info("%d answers found in %s", len(self._lines), path)

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def __getitem__(self, key: str) -> _Line:
        return self._lines[key]

    def add(self, lines: Sequence[_Line]) -> None:
        """Adds the answers of a batch."""
        self._lines.update((line["key"], line) for line in lines)
        if self.path is None:
            return
        text = "".join(json.dumps(line) + "\n" for line in lines)
        # The first batch begins on a line of its own, whatever a killed process has left.
        text = text if self._begun or not self.path.exists() else "\n" + text
        self._begun = True
        with self.path.open("ab", buffering=0) as stream:
            stream.write(text.encode())


class Generator:
    """Generates answers.

    Args:
        network: A causal language model of transformers with ``generate``, in evaluation mode when it is used.
        tokenizer: Its tokenizer.
        ends: Ids of tokens that end an answer.
        rows: Answers that are generated together.
        progress: Whether to show a bar with tokens a second.
    """

    def __init__(self, network: Any, tokenizer: Any, ends: Sequence[int], rows: int, progress: bool = False) -> None:
        self.network, self.tokenizer, self.ends = network, tokenizer, set(ends)
        # A model's own settings, such as a penalty on repetition, would act on every copy unseen.
        network.generation_config = GenerationConfig()
        self.rows, self.progress = rows, progress
        self.store = AnswerStore()
        self._heads: dict[tuple[int, ...], Any] = {}

    def forget(self) -> None:
        """To be called when a weight may have changed: drops what depends on weights and is in memory alone."""
        self._heads.clear()
        if self.store.path is None:
            self.store = AnswerStore()

    def answers(self, asked: Sequence[tuple[Prompt, int]], sampling: Sampling) -> list[Answer]:
        """The answers to prompts.

        Args:
            asked: Prompts, and for each :data:`GREEDY` or the number of a sample.
            sampling: How samples are drawn.
        """
        keys = [answer_key(prompt, number, sampling) for prompt, number in asked]
        stored = [key in self.store for key in keys]
        new = {key: question for key, question, known in zip(keys, asked, stored, strict=True) if not known}
        with tqdm(
            total=len(new), desc="generate", unit=" answers", leave=False, disable=not (self.progress and new)
        ) as bar:
            tokens, start = 0, time.perf_counter()
            for batch in self._batches(new):
                lines = self._generate(batch, [new[key] for key in batch], sampling)
                self.store.add(lines)
                tokens += sum(len(line["ids"]) for line in lines)
                bar.set_postfix_str(f"{tokens / (time.perf_counter() - start):.0f} tokens/s", refresh=False)
                bar.update(len(batch))
        return [self._answer(self.store[key], known) for key, known in zip(keys, stored, strict=True)]

    def _batches(self, new: Mapping[str, tuple[Prompt, int]]) -> Iterator[list[str]]:
        """Keys of answers with the same head, those with the longest prompts first."""
        by_head: dict[tuple[int, ...], list[str]] = {}
        for key, (prompt, _) in new.items():
            by_head.setdefault(prompt.head, []).append(key)
        for group in by_head.values():
            group.sort(key=lambda key: -len(new[key][0].rest))
            yield from (group[first : first + self.rows] for first in range(0, len(group), self.rows))

    @torch.no_grad()
    def _generate(self, keys: Sequence[str], asked: Sequence[tuple[Prompt, int]], sampling: Sampling) -> list[_Line]:
        start = time.perf_counter()
        prompts = [prompt for prompt, _ in asked]
        device = self.network.get_input_embeddings().weight.device
        limits = torch.tensor([prompt.longest for prompt in prompts], device=device)
        rows = [(*prompt.head, *prompt.rest) for prompt in prompts]
        width = max(map(len, rows))
        cache = self._prefilled(prompts[0].head, len(rows), width + int(limits.max()), device)
        # The gap is between the head, which all share, and the rest; before both if the head is read in each row.
        place = 0 if cache is None else len(prompts[0].head)
        gaps = [width - len(row) for row in rows]
        ids = torch.tensor(
            [[*r[:place], *[0] * gap, *r[place:]] for r, gap in zip(rows, gaps, strict=True)], device=device
        )
        attended = torch.ones_like(ids)
        for row, gap in enumerate(gaps):
            attended[row, place : place + gap] = 0
        choice = _Choice([None if n == GREEDY else random.Random(key) for key, (_, n) in zip(keys, asked, strict=True)],
                         sampling)  # fmt: skip
        output = self.network.generate(
            input_ids=ids,
            attention_mask=attended,
            past_key_values=cache,
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList([_Limits(limits, ids.shape[1])]),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=int(limits.max()),
                eos_token_id=sorted(self.ends),
                # Behind an answer's end; what it is does not matter.
                pad_token_id=min(self.ends),
            ),
        )
        answers = output[:, ids.shape[1] :].tolist()
        of_tokens = torch.stack(choice.probabilities, dim=1)
        if bool(of_tokens.isnan().any()):
            raise InputError("probabilities of generated tokens are no numbers; use --precision fp32")
        probabilities = of_tokens.tolist()
        seconds = (time.perf_counter() - start) / len(prompts)
        lines = []
        for key, prompt, answer, likely in zip(keys, prompts, answers, probabilities, strict=True):
            # Behind its end, or its longest length, a row is filled up.
            said = answer[: prompt.longest]
            end = next((place + 1 for place, token in enumerate(said) if token in self.ends), None)
            lines.append(
                _Line(
                    key=key,
                    ids=said[:end],
                    probabilities=[round(value, 4) for value in likely[: len(said[:end])]],
                    complete=end is not None,
                    seconds=round(seconds, 4),
                )
            )
        return lines

    def _prefilled(self, head: tuple[int, ...], rows: int, capacity: int, device: torch.device) -> Any:
        """The cache of rows that begin with the same head, for as many tokens per row.

        None without a head, and where the network needs the tokens of a row side by side.
        """
        if not head or not bears_gap(self.network.config, capacity):
            return None
        if head not in self._heads:
            if len(self._heads) >= _KEPT_HEADS:
                self._heads.pop(next(iter(self._heads)))
            ids = torch.tensor([head], device=device)
            self._heads[head] = self.network(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        return for_rows(self._heads[head], rows, capacity)

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _answer(self, line: _Line, stored: bool) -> Answer:
        ids = [token for token in line["ids"] if token not in self.ends]
        return Answer(
            text=self.text(ids),
            complete=line["complete"],
            probabilities=tuple(line["probabilities"][: len(ids)]),
            tokens=len(line["ids"]),
            seconds=line["seconds"],
            stored=stored,
            text_of=lambda count: self.text(ids[:count]),
        )


def answer_key(prompt: Prompt, number: int, sampling: Sampling) -> str:
    """What an answer is stored under, and a sample's seed; a greedy answer does not depend on the sampling."""
    drawn = (
        "greedy" if number == GREEDY else (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed, number)
    )
    return hashlib.sha256(repr((tuple(prompt), drawn)).encode()).hexdigest()[:32]


def draw_tokens(scores: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Draws one token for each row, by the inverse of the distribution's cumulative sum.

    Args:
        scores: Logits, shape ``(R, V)``.
        uniform: A random number of each row, in [0, 1), shape ``(R,)``.
        sampling: Temperature, top-k, top-p.

    Returns:
        Token ids, int64, shape ``(R,)``.
    """
    count = min(sampling.top_k or scores.shape[-1], scores.shape[-1])
    values, tokens = (scores.float() / sampling.temperature).topk(count)
    likely = values.softmax(dim=-1)
    before = likely.cumsum(dim=-1) - likely
    likely = likely.masked_fill(before >= sampling.top_p, 0.0)
    total = likely.cumsum(dim=-1)
    place = (total <= uniform.unsqueeze(-1).to(total.dtype) * total[:, -1:]).sum(dim=-1)
    # Rounding must not lead behind the last token that has a chance.
    place = torch.minimum(place, (likely > 0).sum(dim=-1) - 1)
    return tokens.gather(-1, place.unsqueeze(-1)).squeeze(-1)


class _Choice(LogitsProcessor):
    """Chooses the next token of each row, greedy or drawn, and keeps its probability."""

    def __init__(self, generators: Sequence[random.Random | None], sampling: Sampling) -> None:
        self.generators, self.sampling = generators, sampling
        self.drawn = [row for row, generator in enumerate(generators) if generator is not None]
        self.probabilities: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - transformers' signature
        chosen = scores.argmax(dim=-1)
        if self.drawn:
            uniform = [generator.random() for generator in self.generators if generator is not None]
            rows = torch.tensor(self.drawn, device=scores.device)
            chosen[rows] = draw_tokens(scores[rows], torch.tensor(uniform, device=scores.device), self.sampling)
        chosen = chosen.unsqueeze(-1)
        self.probabilities.append((scores.gather(-1, chosen).squeeze(-1) - scores.logsumexp(dim=-1)).exp())
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


class _Limits(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, limits: Tensor, start: int) -> None:
        self.limits, self.start = limits, start

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ARG002 - transformers' signature
        return input_ids.shape[1] - self.start >= self.limits
