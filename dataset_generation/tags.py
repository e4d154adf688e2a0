"""Tags as corpora write them: with a type or without, with a prefix or without."""

from __future__ import annotations

from collections.abc import Sequence

from common.data.spans import OUTSIDE, PREFIXES, Span, TagError, split_tag, tags_to_spans
from dataset_generation.formats.base import Tagged
from dataset_generation.formats.columns import is_tag
from dataset_generation.options import ReadOptions, TagScheme


def check_tags(item: Tagged, options: ReadOptions) -> None:
    """Raises ``ValueError`` if a sentence has too few or too many tags, or an invalid one."""
    if len(item.words) != len(item.tags):
        raise ValueError(f"{len(item.words)} words but {len(item.tags)} tags")
    for index, tag in enumerate(typed(item.tags, options)):
        if options.tag_scheme == "io":
            if tag[1:2] == "-" and is_tag(tag[:1]):
                raise ValueError(f"word {index}: tag {tag!r} has a prefix, and --tag-scheme io says that none has")
        else:
            split_tag(tag, index)


def typed(tags: Sequence[str], options: ReadOptions) -> Sequence[str]:
    """The tags, with the type of ``--type`` added to those that name none.

    Raises:
        TagError: If one names none and there is no ``--type``.
    """
    if options.tag_scheme == "io" or PREFIXES.isdisjoint(tags):
        return tags
    if options.type is None:
        index = next(index for index, tag in enumerate(tags) if tag in PREFIXES)
        raise TagError(
            f"word {index}: tag {tags[index]!r} names no type; if the corpus has but one, give it with --type NAME"
        )
    return [f"{tag}-{options.type}" if tag in PREFIXES else tag for tag in tags]


def tag_spans(tags: Sequence[str], scheme: TagScheme, options: ReadOptions) -> list[Span]:
    """The entities that tags of a scheme encode."""
    if scheme == "io":
        return tags_to_spans([tag if tag == OUTSIDE else f"I-{tag}" for tag in tags], "iob1")
    assert scheme != "auto"
    return tags_to_spans(typed(tags, options), scheme)
