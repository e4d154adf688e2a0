"""Phrases of sentences: candidates for names."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

_INSIDE = frozenset("-/'")
"""Words that may stand inside a phrase."""


def phrases_of(words: Sequence[str], longest: int) -> list[str]:
    """The runs of words between stop words and punctuation (RAKE, Rose et al. 2010), each once, in order.

    Hyphens and slashes inside a run belong to it. Of a run of more words than ``longest``, every part of that length
    is a phrase; a phrase without a letter is none.

    Args:
        words: Words of a sentence.
        longest: Words of a phrase, at most.
    """
    runs: list[list[str]] = [[]]
    for word in words:
        if word.lower() in ENGLISH_STOP_WORDS or not (word[0].isalnum() or (runs[-1] and word in _INSIDE)):
            runs.append([])
        else:
            runs[-1].append(word)
    found: dict[str, None] = {}
    for run in runs:
        while run and run[-1] in _INSIDE:
            run.pop()
        for first in range(max(1, len(run) - longest + 1)):
            phrase = " ".join(run[first : first + longest])
            if any(map(str.isalpha, phrase)):
                found[phrase] = None
    return list(found)
