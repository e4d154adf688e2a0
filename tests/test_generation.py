"""Generated answers: greedy and sampled, in batches and alone, stored and gone on with."""

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, Lfm2Config, LlamaConfig, MistralConfig

from common.errors import InputError
from common.models.cache import for_rows
from common.models.causal_lm import load_language_model
from common.models.chat import Chat
from common.models.generation import GREEDY, Answer, AnswerStore, Generator, Prompt, Sampling, answer_key, draw_tokens

SHAPE: dict[str, Any] = {
    "vocab_size": 500, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.5, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
SAMPLING = Sampling(temperature=1.3, top_p=0.9, top_k=20, seed=7)


@pytest.fixture(scope="module")
def language_model(gliner_folder):
    base = load_language_model(str(gliner_folder("causal-llama")), "causal")
    return base.network(output_layer=True), base.tokenizer


@pytest.fixture(scope="module")
def prompts(language_model):
    tokenizer = language_model[1]

    def ids(text):
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    heads = [ids("<s>the fever of patients"), ids("<s>with"), ()]
    texts = [" was seen in IL-2", " T cells", " binds p53/mdm2 after 10 °C , in the patients"]
    return [Prompt(head, ids(text), longest) for head in heads for text, longest in zip(texts, (7, 3, 9), strict=True)]


@pytest.fixture(scope="module")
def stops(language_model, prompts):
    """Tokens that end an answer: that of the tokenizer, and one that the random model says soon."""
    ids, _ = by_hand(language_model[0], prompts[0], (), lambda scores: int(scores.argmax()))
    return (1, ids[2])


@pytest.fixture
def make(language_model, stops):
    """Makes a generator."""
    return lambda rows=32, ends=stops: Generator(*language_model, ends, rows)


def said(answers):
    return [(answer.text, answer.complete, answer.tokens) for answer in answers]


def by_hand(network, prompt, stops, choose):
    """Token by token, without cache, batch and padding."""
    ids = [*prompt.head, *prompt.rest]
    found, likely = [], []
    while len(found) < prompt.longest:
        with torch.no_grad():
            scores = network(torch.tensor([ids])).logits[0, -1]
        token = choose(scores)
        found.append(token)
        likely.append(float(scores.softmax(-1)[token]))
        ids.append(token)
        if token in stops:
            break
    return found, likely


def test_greedy_answers_are_those_without_cache_batch_and_padding(make, language_model, prompts, stops):
    network, tokenizer = language_model
    answers = make().answers([(prompt, GREEDY) for prompt in prompts], SAMPLING)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, likely = by_hand(network, prompt, stops, lambda scores: int(scores.argmax()))
        complete = ids[-1] in stops
        assert (answer.tokens, answer.complete) == (len(ids), complete)
        assert answer.text == tokenizer.decode(ids[: len(ids) - complete], skip_special_tokens=True)
        assert answer.probabilities == pytest.approx(likely[: len(ids) - complete], abs=1e-3)
    assert {answer.complete for answer in answers} == {True, False}


def test_tokens_of_no_probability_are_refused_and_not_kept(language_model, prompts, tmp_path):
    network, tokenizer = copy.deepcopy(language_model[0]), language_model[1]
    torch.nn.init.constant_(network.lm_head.weight, float("nan"))
    generator = Generator(network, tokenizer, (1,), rows=2)
    generator.store = AnswerStore(tmp_path, {})
    with pytest.raises(InputError, match="no numbers; use --precision fp32"):
        generator.answers([(prompts[0], GREEDY)], SAMPLING)
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize(
    "config",
    [MistralConfig(sliding_window=8, **SHAPE), Lfm2Config(layer_types=["conv", "full_attention"], **SHAPE)],
    ids=["sliding window", "convolution"],
)
def test_networks_that_count_places_read_the_rows_of_a_batch_without_a_gap_in_them(language_model, prompts, config):
    """A masked place between head and rest takes the place of a token that a window or convolution would have read."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).eval()
    assert prompts[0].head == prompts[2].head
    assert len(prompts[0].rest) < len(prompts[2].rest)
    generator = Generator(network, language_model[1], (1,), rows=2)
    answers = generator.answers([(prompt, GREEDY) for prompt in (prompts[0], prompts[2])], SAMPLING)
    for prompt, answer in zip((prompts[0], prompts[2]), answers, strict=True):
        _, likely = by_hand(network, prompt, (1,), lambda scores: int(scores.argmax()))
        assert answer.probabilities == pytest.approx(likely, abs=1e-3)


def test_samples_are_drawn_from_the_models_probabilities(make, language_model, prompts, stops):
    """The same, with the random numbers of each sample's own seed."""
    network, _ = language_model
    generator = make()
    asked = [(prompt, number) for prompt in prompts[:3] for number in (1, 2)]
    answers = generator.answers(asked, SAMPLING)
    for (prompt, number), answer in zip(asked, answers, strict=True):
        numbers = random.Random(answer_key(prompt, number, SAMPLING))

        def choose(scores, numbers=numbers):
            return int(draw_tokens(scores[None], torch.tensor([numbers.random()]), SAMPLING)[0])

        assert answer.tokens == len(by_hand(network, prompt, stops, choose)[0])
    assert len({answer.text for answer in answers}) > 3


def test_an_answer_does_not_depend_on_its_batch(make, prompts):
    asked = [(prompt, number) for prompt in prompts for number in (GREEDY, 1, 2)]
    together = said(make(64).answers(asked, SAMPLING))
    assert said(make(1).answers(asked, SAMPLING)) == together
    assert said(reversed(make(64).answers(asked[::-1], SAMPLING))) == together


def test_a_models_own_settings_of_generation_are_not_used(make, language_model, prompts):
    expected = said(make().answers([(prompts[0], GREEDY)], SAMPLING))
    language_model[0].generation_config = GenerationConfig(repetition_penalty=50.0, do_sample=True, num_beams=2)
    assert said(make().answers([(prompts[0], GREEDY)], SAMPLING)) == expected


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"), [(0, 1.0, 4), (2, 1.0, 2), (0, 0.75, 2), (3, 0.9, 3), (3, 0.89, 2), (0, 1e-9, 1)]
)
def test_draws_have_the_probabilities_of_what_is_left(top_k, top_p, kept):
    """Shares over an even grid of random numbers, against the probabilities by hand."""
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35])
    uniform = (torch.arange(4000) + 0.5) / 4000
    drawn = draw_tokens(probabilities.log().expand(4000, -1), uniform, Sampling(1.0, top_p, top_k))
    shares = torch.bincount(drawn, minlength=4) / 4000
    best = torch.tensor([1, 3, 0, 2])[:kept]
    expected = torch.zeros(4)
    expected[best] = probabilities[best] / probabilities[best].sum()
    np.testing.assert_allclose(shares, expected, atol=1e-3)


def test_temperature_sharpens():
    uniform = (torch.arange(1000) + 0.5) / 1000
    cold = draw_tokens(torch.tensor([[0.0, 1.0]]).expand(1000, -1), uniform, Sampling(0.1, 1.0, 0))
    assert cold.float().mean() > 0.99
    nearly_one = torch.tensor([1 - 2**-24])
    assert draw_tokens(torch.tensor([[5.0, 0.0, -100.0]]), nearly_one, Sampling(1.0, 0.9, 0)).tolist() == [0]


def test_the_probability_of_a_part_of_an_answer_is_the_mean_of_its_tokens():
    texts = ["", "a", "ab ", "ab c", "ab cd"]
    answer = Answer("ab cd", True, (0.1, 0.2, 0.4, 0.8), 5, 0.0, False, texts.__getitem__)
    assert answer.ends == (1, 3, 4, 5)
    parts = {(0, 5): 0.375, (0, 1): 0.1, (1, 2): 0.2, (2, 4): 0.3, (3, 5): 0.6, (5, 5): 0.0}
    assert {part: answer.probability(*part) for part in parts} == pytest.approx(parts)


# -- store ------------------------------------------------------------------------------------------------------------


def stored(make, folder, settings=None):
    generator = make(2)
    generator.store = AnswerStore(folder, settings or {"weights": "a"})
    return generator


def test_a_killed_generation_goes_on_where_it_was(make, prompts, tmp_path, monkeypatch, caplog):
    asked = [(prompt, number) for prompt in prompts for number in (GREEDY, 1)]
    whole = said(make(2).answers(asked, SAMPLING))
    killed, batches = stored(make, tmp_path), []
    generate = Generator._generate

    def until_killed(self, keys, *arguments):
        batches.append(keys)
        if len(batches) == 4:
            raise KeyboardInterrupt
        return generate(self, keys, *arguments)

    monkeypatch.setattr(Generator, "_generate", until_killed)
    with pytest.raises(KeyboardInterrupt):
        killed.answers(asked, SAMPLING)
    # And a part of a line is left.
    with killed.store.path.open("a", encoding="utf-8") as stream:
        stream.write('{"key": "0", "ids": [1')
    batches[:] = []

    def noted(self, keys, *arguments):
        batches.append(keys)
        return generate(self, keys, *arguments)

    monkeypatch.setattr(Generator, "_generate", noted)
    resumed = stored(make, tmp_path)
    answers = resumed.answers(asked, SAMPLING)
    assert said(answers) == whole
    assert sum(answer.stored for answer in answers) == len(asked) - sum(map(len, batches)) == 6
    assert "lines that are not whole: [7]" in caplog.text
    # All are there now, and what was written behind the part of a line is whole.
    assert all(answer.stored for answer in stored(make, tmp_path).answers(asked, SAMPLING))


def test_more_samples_are_new_and_the_first_ones_stay(make, prompts, tmp_path):
    stored(make, tmp_path).answers([(prompts[0], number) for number in (GREEDY, 1)], SAMPLING)
    again = stored(make, tmp_path)
    answers = again.answers([(prompts[0], number) for number in (GREEDY, 1, 2)], SAMPLING)
    assert [answer.stored for answer in answers] == [True, True, False]
    other = Sampling(SAMPLING.temperature, SAMPLING.top_p, SAMPLING.top_k, seed=8)
    answers = again.answers([(prompts[0], number) for number in (GREEDY, 1)], other)
    assert [answer.stored for answer in answers] == [True, False]


def test_other_settings_have_another_file(make, prompts, tmp_path):
    stored(make, tmp_path).answers([(prompts[0], GREEDY)], SAMPLING)
    others = stored(make, tmp_path, {"weights": "b"})
    assert not others.answers([(prompts[0], GREEDY)], SAMPLING)[0].stored
    settings = [json.loads(path.read_text("utf-8")) for path in sorted(tmp_path.glob("*.json"))]
    assert sorted(item["weights"] for item in settings) == ["a", "b"]


UNEQUAL = '{"key": "a", "ids": [1], "probabilities": [], "complete": true, "seconds": 1.0}'


@pytest.mark.parametrize("line", ["[]", "{}", UNEQUAL, "\xff", "{" * 9])
def test_a_damaged_line_is_said_and_generated_again(make, prompts, tmp_path, line, caplog):
    first = stored(make, tmp_path)
    first.answers([(prompts[0], GREEDY)], SAMPLING)
    with first.store.path.open("ab") as stream:
        stream.write(line.encode("latin-1") + b"\n")
    assert stored(make, tmp_path).answers([(prompts[0], GREEDY)], SAMPLING)[0].stored
    assert "1 lines that are not whole: [2]" in caplog.text


def test_changed_weights_forget(language_model, prompts):
    network, tokenizer = language_model
    generator = Generator(network, tokenizer, (1,), 8)
    before = said(generator.answers([(prompts[0], GREEDY)], SAMPLING))
    with torch.no_grad():
        network.model.embed_tokens.weight += 0.5
    try:
        assert said(generator.answers([(prompts[0], GREEDY)], SAMPLING)) == before
        generator.forget()
        answer = generator.answers([(prompts[0], GREEDY)], SAMPLING)[0]
        ids, _ = by_hand(network, prompts[0], (1,), lambda scores: int(scores.argmax()))
        assert answer.text == tokenizer.decode([token for token in ids if token != 1], skip_special_tokens=True)
    finally:
        with torch.no_grad():
            network.model.embed_tokens.weight -= 0.5


# -- chat -------------------------------------------------------------------------------------------------------------


def test_a_question_stands_in_the_turns_of_the_template(language_model):
    chat = Chat(language_model[1])
    assert chat.around("Q: ", " ?") == ("<|user|>\nQ: ", " ?</s>\n<|assistant|>\n")
    assert chat.end_ids == [1]
    assert chat.stops == (1,)


@pytest.mark.parametrize("date", ["{{ date_string }}", "{{ strftime_now('%d %b %Y') }}"])
def test_a_prompt_is_the_same_on_any_day(gliner_folder, date):
    tokenizer = load_language_model(str(gliner_folder("causal-llama")), "causal").tokenizer
    tokenizer.chat_template = date + "{% for turn in messages %}: {{ turn.content }}{% endfor %}"
    assert Chat(tokenizer).around("Q", "?") == ("26 Jul 2024: Q", "?")


def test_a_model_without_a_template_gets_plain_text(gliner_folder):
    tokenizer = load_language_model(str(gliner_folder("causal-llama")), "causal").tokenizer
    tokenizer.chat_template = None
    assert Chat(tokenizer).around("Q: ", " ?") == ("<s>Q: ", " ?\n")
    tokenizer.eos_token = None
    chat = Chat(tokenizer)
    assert chat.end_ids == tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert chat.stops == (chat.end_ids[0],)


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{{ nothing.at.all }}", "{% if %}", "fixed"])
def test_a_template_that_cannot_be_used_is_bad_input(gliner_folder, template):
    tokenizer = load_language_model(str(gliner_folder("causal-llama")), "causal").tokenizer
    tokenizer.chat_template = template
    with pytest.raises(InputError, match="chat template"):
        Chat(tokenizer).around("Q: ", " ?")


def test_keys_and_values_are_written_in_place():
    """Against transformers' own layers, also beside a layer that forgets."""
    config = LlamaConfig(num_hidden_layers=2)
    config.layer_types, config.sliding_window = ["full_attention", "sliding_attention"], 4
    read = DynamicCache(config=config)
    generator = torch.Generator().manual_seed(0)

    def states(rows, tokens):
        return [torch.randn(rows, 2, tokens, 8, generator=generator) for _ in range(2)]

    for layer in read.layers:
        layer.update(*states(1, 5))
    plain, cache = copy.deepcopy(read), for_rows(read, rows=3, capacity=9)
    plain.batch_repeat_interleave(3)
    places = set()
    for tokens in (2, 1, 1):
        for number in range(2):
            new = states(3, tokens)
            found, expected = cache.update(*new, number), plain.update(*new, number)
            assert all(map(torch.equal, found, expected))
            assert cache.get_mask_sizes(1, number) == plain.get_mask_sizes(1, number)
            places |= {one.data_ptr() for one in found} if number == 0 else set()
        assert cache.get_seq_length() == plain.get_seq_length()
    assert len(places) == 2, "the first layer's tensors were copied"
    assert [layer.keys.shape for layer in read.layers] == [(1, 2, 5, 8), (1, 2, 3, 8)], "what was read has changed"
