"""Self-consistency over spans: of several sampled answers to one prompt, the entities on which enough agree.

The NERLlama3.1 paper votes over answers (SCNP) and publishes no code. This is ours: each valid answer has one vote for
each span that it marks, and a span's score is its share of the valid answers (Wang et al. 2023, self-consistency, for
sets of spans in place of one final answer).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from common.data.spans import ScoredSpan
from nerllama.marks import Reading


def vote(readings: Sequence[Reading]) -> list[ScoredSpan]:
    """The spans of all samples, each with its share of the valid ones; they may overlap.

    A refused answer is no vote for anything; where all are refused there is no span.
    """
    valid = [reading for reading in readings if reading.state != "refused"]
    votes = Counter(span for reading in valid for span in reading.spans)
    return [ScoredSpan(span, count / len(valid)) for span, count in votes.items()]
