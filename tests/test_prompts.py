"""Soft prompts: each pooler against its definition on the description alone, where embeddings come from, and what
does not fit.
"""

import logging
import re
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import LABELS, TEXT_LIMIT, TEXT_WIDTH
from torch import Tensor, nn

import injection_bi.model
import injection_bi.spec
import injection_cross.model
import injection_cross.spec
from common.errors import InputError
from common.models.prompts import (
    ATTENTION_HEADS,
    DescriptionPrompts,
    MLPPromptEncoder,
    Pooling,
    PromptConfig,
    PromptPooler,
    adaptive_bins,
    between_special_tokens,
)

POOLINGS = get_args(Pooling)

SP_BI, SP_CROSS = injection_bi.spec.SPEC, injection_cross.spec.SPEC
WIDTH = 8
LENGTHS = [1, 2, 5, 9, 12]
"""Sub-words of five descriptions, shorter and longer than the prompts."""


def pooler_of(mode: str, prompt_length: int) -> PromptPooler:
    """A pooler with random weights, LayerNorm's too."""
    torch.manual_seed(0)
    pooler = PromptPooler(mode, WIDTH, prompt_length)
    for parameter in pooler.parameters():
        nn.init.normal_(parameter, std=0.5)
    return pooler


def descriptions() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, WIDTH, generator=generator) for length in LENGTHS]


def padded(rows: list[Tensor], columns: int, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """The rows in a tensor of that many columns, with noise of size ``fill`` behind their ends, and the mask."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(len(rows), columns, WIDTH, generator=generator) * fill
    mask = torch.zeros(len(rows), columns, dtype=torch.bool)
    for number, row in enumerate(rows):
        inputs[number, : len(row)] = row
        mask[number, : len(row)] = True
    return inputs, mask


# -- poolers ----------------------------------------------------------------------------------------------------------


def attention_by_hand(pooler: PromptPooler, row: Tensor) -> Tensor:
    """Scaled dot products of each head, one after another."""
    layer, size = pooler.attention, WIDTH // ATTENTION_HEADS
    queries, keys, values = (
        inputs @ weight.T + bias
        for inputs, weight, bias in zip(
            (pooler.queries, row, row), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True
        )
    )
    heads = []
    for first in range(0, WIDTH, size):
        part = slice(first, first + size)
        shares = (queries[:, part] @ keys[:, part].T / size**0.5).softmax(dim=-1)
        heads.append(shares @ values[:, part])
    attended = torch.cat(heads, dim=-1) @ layer.out_proj.weight.T + layer.out_proj.bias
    return pooler.norm(attended + pooler.queries)


def pooled_alone(pooler: PromptPooler, row: Tensor) -> Tensor:
    """The prompts of one description, of shape ``(length, E)``, by PyTorch's layers and without padding."""
    columns = row.T[None]
    average = nn.AdaptiveAvgPool1d(pooler.prompt_length)
    if pooler.mode == "adaptive_avg":
        return average(columns)[0].T
    if pooler.mode == "adaptive_max":
        return nn.AdaptiveMaxPool1d(pooler.prompt_length)(columns)[0].T
    if pooler.mode == "conv1d":
        return pooler.norm(nn.Sequential(pooler.first, nn.GELU(), pooler.second, average)(columns)[0].T)
    if pooler.mode == "conv1d_strided":
        pooled = nn.Sequential(pooler.first, average)(columns)[0].T
        return pooler.norm(pooled * torch.sigmoid(pooler.gate(pooled)))
    return attention_by_hand(pooler, row)


@pytest.mark.parametrize("prompt_length", [1, 3, 5, 20])
@pytest.mark.parametrize("mode", POOLINGS)
def test_a_pooler_is_its_definition_on_each_description_alone(mode, prompt_length):
    pooler, rows = pooler_of(mode, prompt_length), descriptions()
    found = pooler(*padded(rows, max(LENGTHS)))
    assert found.shape == (len(rows), prompt_length, WIDTH)
    for prompts, row in zip(found, rows, strict=True):
        torch.testing.assert_close(prompts, pooled_alone(pooler, row), rtol=1e-4, atol=1e-5)


def test_convolutions_have_the_documented_sizes():
    conv, strided = pooler_of("conv1d", 4), pooler_of("conv1d_strided", 4)
    assert (conv.first.kernel_size, conv.second.kernel_size, strided.first.kernel_size) == ((3,), (3,), (5,))
    sizes = {mode: sum(p.numel() for p in pooler_of(mode, 4).parameters()) for mode in POOLINGS}
    norm = 2 * WIDTH
    assert sizes == {
        "adaptive_avg": 0,
        "adaptive_max": 0,
        "attention": 4 * WIDTH + 4 * (WIDTH**2 + WIDTH) + norm,
        "conv1d": 2 * (3 * WIDTH**2 + WIDTH) + norm,
        "conv1d_strided": 5 * WIDTH**2 + WIDTH + WIDTH**2 + WIDTH + norm,
    }


@pytest.mark.parametrize("mode", POOLINGS)
def test_padding_changes_no_prompt_whatever_stands_in_it(mode):
    pooler, rows = pooler_of(mode, 4), descriptions()
    expected = pooler(*padded(rows, max(LENGTHS)))
    inputs, mask = padded(rows, 3 * max(LENGTHS), fill=1e3)
    inputs.requires_grad_()
    found = pooler(inputs, mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad((found * torch.randn_like(found)).sum(), inputs)
    assert not gradient[~mask].any()
    assert gradient[mask].any(dim=-1).any()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 40), st.integers(0, 7))
def test_bins_are_those_of_adaptive_pooling(lengths, n_bins, padding):
    columns = max(lengths) + padding
    bins = adaptive_bins(torch.tensor(lengths), n_bins, columns)
    assert bins.shape == (len(lengths), n_bins, columns)
    for found, length in zip(bins, lengths, strict=True):
        # Pooling each position's own one-hot vector gives its share in each bin.
        shares = F.adaptive_avg_pool1d(torch.eye(length)[None], n_bins)[0].T
        assert torch.equal(found[:, :length], shares > 0)
        assert not found[:, length:].any()


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(InputError, match=r"4 heads, which do not divide the encoder's width of 10"):
        PromptPooler("attention", 10, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_length": 0}, "prompt_length must be at least 1, got 0"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1, got 1.5"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        PromptConfig(**settings)


# -- encoder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_starts_as_a_layer_norm(training):
    encoder = MLPPromptEncoder(WIDTH, dropout=0.5).train(training)
    embeddings = torch.randn(3, 7, WIDTH)
    torch.testing.assert_close(encoder(embeddings), F.layer_norm(embeddings, (WIDTH,)))


def test_the_encoder_is_its_definition():
    encoder = MLPPromptEncoder(WIDTH, dropout=0.5).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    first, last = (layer for layer in encoder.mlp if isinstance(layer, nn.Linear))
    assert first.out_features == 4 * WIDTH
    embeddings = torch.randn(5, WIDTH)
    hidden = F.gelu(embeddings @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(encoder(embeddings), encoder.norm(embeddings + hidden))
    encoder.train()
    assert not torch.equal(encoder(embeddings), encoder(embeddings))


# -- prompts of a label set -------------------------------------------------------------------------------------------

TEXTS = [*LABELS.label2desc.values()]


@pytest.fixture
def backbone(load):
    """Tokenizer and word embeddings of a tiny cross-encoder."""
    base = load("cross-bert")
    return base.gliner.data_processor.transformer_tokenizer, base.part("text encoder").model.get_input_embeddings()


def prompts_of(texts: list[str], backbone, pooling: str = "conv1d", **settings) -> DescriptionPrompts:
    torch.manual_seed(0)
    made = DescriptionPrompts(texts, *backbone, PromptConfig(pooling=pooling, prompt_length=3, **settings)).eval()
    # The encoder's last layer starts at zero; what it adds is to be seen here.
    nn.init.normal_(made.encoder.mlp[3].weight)
    return made


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_labels_prompts_do_not_depend_on_the_other_descriptions(backbone, pooling):
    _, embedding = backbone
    many = prompts_of(
        [*TEXTS, "A much longer description of one more type of entity than any other here."], backbone, pooling
    )
    together = many(embedding)
    assert len({int(length) for length in many.mask.sum(dim=1)}) > 2
    for number, text in enumerate(TEXTS):
        alone = prompts_of([text], backbone, pooling)(embedding)
        torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-5)


def test_prompts_are_embedding_encoder_pooler_and_scale(backbone):
    tokenizer, embedding = backbone
    made = prompts_of(TEXTS, backbone, "adaptive_avg")
    made.scale.data.fill_(0.25)
    prompts = made(embedding)
    assert prompts.shape == (len(TEXTS), 3, TEXT_WIDTH)
    for row, text in zip(prompts, TEXTS, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
        encoded = made.encoder(embedding.weight[ids])
        torch.testing.assert_close(row, 0.25 * F.adaptive_avg_pool1d(encoded.T, 3).T)


def test_the_scale_starts_at_the_embeddings_root_mean_square(backbone):
    _, embedding = backbone
    made = prompts_of(TEXTS, backbone)
    values = embedding.weight.detach().double().flatten()
    assert made.scale.item() == pytest.approx(float((values @ values / len(values)) ** 0.5), rel=1e-5)
    # So a prompt has the size of a word: the pooler's LayerNorm alone would put out 1 in each place.
    sizes = made(embedding).square().mean(dim=-1).sqrt()
    torch.testing.assert_close(sizes, made.scale.expand_as(sizes), rtol=1e-3, atol=0)
    assert made.scale.item() < 0.5


def test_embeddings_are_read_and_not_copied(backbone):
    _, embedding = backbone
    made = prompts_of(TEXTS, backbone, "adaptive_avg")
    width = embedding.embedding_dim
    assert sum(p.numel() for p in made.parameters()) == 8 * width**2 + 5 * width + 2 * width + 1
    before = made(embedding)
    with torch.no_grad():
        embedding.weight.add_(torch.randn_like(embedding.weight))
    assert not torch.allclose(made(embedding), before)


def test_a_table_of_its_own_starts_as_a_copy(backbone):
    _, embedding = backbone
    shared, own = prompts_of(TEXTS, backbone), prompts_of(TEXTS, backbone, train_embedding_table=True)
    assert own.table.weight.requires_grad
    extra = sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in shared.parameters())
    assert extra == embedding.weight.numel()
    own.load_state_dict(shared.state_dict(), strict=False)
    before = own(embedding)
    assert torch.equal(before, shared(embedding))
    with torch.no_grad():
        embedding.weight.add_(torch.randn_like(embedding.weight))
    assert torch.equal(own(embedding), before)


# -- between special tokens, and what does not fit --------------------------------------------------------------------


def test_prompts_stand_between_special_tokens(backbone):
    tokenizer, embedding = backbone
    prompts = torch.randn(2, 5, TEXT_WIDTH)
    found = between_special_tokens(prompts, tokenizer, embedding)
    assert found.shape == (2, 7, TEXT_WIDTH)
    assert torch.equal(found[:, 1:-1], prompts)
    for row in found:
        assert torch.equal(row[0], embedding.weight[tokenizer.cls_token_id])
        assert torch.equal(row[-1], embedding.weight[tokenizer.sep_token_id])


def test_special_tokens_take_the_prompts_precision(backbone):
    prompts = torch.randn(1, 2, TEXT_WIDTH, dtype=torch.bfloat16)
    assert between_special_tokens(prompts, *backbone).dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["cls_token", "sep_token"])
def test_a_tokenizer_without_special_tokens(backbone, missing):
    tokenizer, embedding = backbone
    setattr(tokenizer, missing, None)
    with pytest.raises(InputError, match=r"need a tokenizer with \[CLS\] and \[SEP\]; \w+ has \[.*None"):
        between_special_tokens(torch.zeros(1, 2, TEXT_WIDTH), tokenizer, embedding)


def test_prompts_beyond_the_label_encoders_positions(trial):
    """The tiny label encoder reads 32 sub-words."""
    fits = trial(SP_BI, "bi-bert", prompts=PromptConfig(prompt_length=30)).model()
    assert fits.comparison.labels().isfinite().all()
    with pytest.raises(InputError, match=r"--prompt-length 31 and two special tokens need 33 positions, .* has 32"):
        trial(SP_BI, "bi-bert", prompts=PromptConfig(prompt_length=31)).model()


@pytest.mark.parametrize("base", ["cross-bert", "cross-deberta"])
@pytest.mark.parametrize("level", ["token", "span"])
def test_prompts_that_leave_no_room_for_text(trial, data, base, level):
    """With 96 positions and 4 labels, 23 vectors a label leave one sub-word beside the special tokens."""
    fits = trial(SP_CROSS, base, prompts=PromptConfig(prompt_length=23), level=level).model().eval()
    encoded = fits.encode(data.test[:3])
    assert {len(item.input_ids) for item in encoded} == {3}
    assert [item.n_words for item in encoded] == [1, 1, 1]
    fits.predict(fits.collate(encoded))
    message = (
        f"4 labels with --prompt-length 24 take 96 of the {TEXT_LIMIT} positions of base model '.*' and leave no room"
    )
    with pytest.raises(InputError, match=message):
        trial(SP_CROSS, base, prompts=PromptConfig(prompt_length=24), level=level).model()


@pytest.mark.parametrize(("prompt_length", "level"), [(7, logging.INFO), (8, logging.WARNING)])
def test_little_room_for_text_is_a_warning(trial, caplog, prompt_length, level):
    """What is left is 96 positions less the prompts and three special tokens."""
    caplog.set_level(logging.INFO)
    trial(SP_CROSS, "cross-bert", prompts=PromptConfig(prompt_length=prompt_length)).model()
    (record,) = [record for record in caplog.records if "prompt vectors" in record.message]
    left = TEXT_LIMIT - 4 * prompt_length - 3
    assert record.levelno == level
    assert re.fullmatch(
        rf"{4 * prompt_length} prompt vectors \(4 labels\) leave {left} of 96 positions for text", record.message
    )
