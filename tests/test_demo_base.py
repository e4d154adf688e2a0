"""The demo bases' start and what their pretraining asks; building one takes too long for a test."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from gliner.modeling.layers import create_projection_layer
from gliner.modeling.span_rep import SpanRepLayer

from common import demo_base
from common.data.dataset import Sentence
from common.data.spans import Span
from common.files import built_once
from common.models.span_head import factored_logits


def test_the_head_starts_as_the_product_of_span_and_type():
    torch.manual_seed(0)
    settings = demo_base.Pretraining()
    layer = SpanRepLayer(span_mode="markerV0", hidden_size=6, max_width=2, dropout=0.0)
    core = SimpleNamespace(span_rep_layer=layer, prompt_rep_layer=create_projection_layer(6, 0.0))
    demo_base._compare_in_the_encoders_space(core, settings)
    words, labels = torch.randn(1, 4, 6), torch.randn(3, 6)
    with torch.no_grad():
        logits = factored_logits(layer.span_rep_layer, words, core.prompt_rep_layer(labels))
    for start, end in ((0, 0), (2, 2), (1, 2)):
        # Positive coordinates of the first word, negative ones of the last; a span of one word is its word.
        span = words[0, start].clamp(min=0) + words[0, end].clamp(max=0)
        wanted = settings.score_scale * labels[:, 1:] @ span[1:] - settings.score_offset
        torch.testing.assert_close(logits[0, start, end - start], wanted)


def test_sentences_are_joined_with_their_spans():
    first = Sentence(("Ada", "slept", "."), (Span(0, 0, "person"),))
    second = Sentence(("In", "New", "York", "."), (Span(1, 2, "city"),))
    joined = demo_base._joined([first, second])
    assert joined == Sentence((*first.words, *second.words), (Span(0, 0, "person"), Span(4, 5, "city")))


def test_a_batch_is_asked_for_its_own_types_and_others_in_changing_order():
    names = [f"type {index}" for index in range(40)]
    group = [Sentence(("a", "b"), (Span(0, 0, "type 3"), Span(1, 1, "type 30")))]
    rng = random.Random(0)
    asked = [demo_base._types_to_ask(group, names, rng) for _ in range(20)]
    assert all(len(set(types)) == len(types) == demo_base.TYPES_ASKED for types in asked)
    assert all({"type 3", "type 30"} <= set(types) <= set(names) for types in asked)
    assert len({types.index("type 3") for types in asked}) > 5
    crowded = [Sentence(tuple(names), tuple(Span(i, i, name) for i, name in enumerate(names)))]
    assert len(set(demo_base._types_to_ask(crowded, names, rng))) == demo_base.TYPES_ASKED


def test_a_folder_is_built_once_and_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "bases" / "demo"

    def build(path, text="ours", error=None):
        path.mkdir()
        (path / "proof").write_text(text)
        if error is not None:
            raise error

    def slower(path):
        build(folder, "of another process")
        build(path)

    with pytest.raises(RuntimeError):
        built_once(folder, "proof", lambda path: build(path, error=RuntimeError("broken")))
    assert not list(folder.parent.iterdir())
    for _ in range(2):
        assert built_once(folder, "proof", slower) == folder
        assert (folder / "proof").read_text() == "of another process"
    assert list(folder.parent.iterdir()) == [folder]
