"""The error page: pairs of gold and predicted spans, the file of predictions, the figures, and what a browser shows."""

import asyncio
import contextlib
import json
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import LABELS, generated_sentence

from common.data.dataset import Dataset, Sentence, make_sentence
from common.data.labels import LabelSet
from common.data.spans import ScoredSpan, Span
from common.errors import InputError
from common.errors_page import main, page_data, write_page
from common.evaluation.error_kinds import KINDS, Pair, error_report, pair_spans
from common.evaluation.metrics import bootstrap_intervals, count_spans, span_scores, token_report
from common.evaluation.predict_split import Evaluation, flat
from common.evaluation.results import predictions_path, read_predictions, result_record, write_result

A, B = "protein", "disease"
FORMAT_1 = Path(__file__).parent / "data" / "format_1" / "results" / "glinerev.json"


# -- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "predicted", "pairs"),
    [
        ([Span(0, 1, A)], [Span(0, 1, A)], [("correct", 0, 0, True, True)]),
        ([Span(0, 1, A)], [Span(0, 1, B)], [("type", 0, 0, True, True)]),
        ([Span(0, 1, A)], [Span(1, 2, A)], [("boundary", 0, 0, True, True)]),
        ([Span(0, 1, A)], [Span(1, 2, B)], [("boundary_and_type", 0, 0, True, True)]),
        ([Span(0, 1, A)], [Span(2, 3, A)], [("missed", 0, None, True, False), ("spurious", None, 0, False, True)]),
        ([], [], []),
        # The one of its type is the partner, though the other shares more words.
        (
            [Span(0, 3, A)],
            [Span(0, 2, B), Span(3, 3, A)],
            [("boundary", 0, 1, True, True), ("boundary_and_type", 0, 0, False, True)],
        ),
        # Of two of its type, the one that shares more words; of two that share as many, the first.
        (
            [Span(0, 3, A)],
            [Span(0, 0, A), Span(1, 3, A)],
            [("boundary", 0, 1, True, True), ("boundary", 0, 0, False, True)],
        ),
        (
            [Span(0, 3, A)],
            [Span(0, 1, A), Span(2, 3, A)],
            [("boundary", 0, 0, True, True), ("boundary", 0, 1, False, True)],
        ),
        # One prediction over two gold spans: it is counted with one of them, and both are.
        (
            [Span(0, 1, A), Span(2, 4, B)],
            [Span(0, 4, B)],
            [("boundary_and_type", 0, 0, True, False), ("boundary", 1, 0, True, True)],
        ),
        # The second prediction's partner has a better one, and the second gold span has only the second prediction:
        # each keeps its own kind.
        (
            [Span(0, 3, A), Span(4, 5, B)],
            [Span(0, 2, A), Span(3, 5, A)],
            [("boundary", 0, 0, True, True), ("boundary_and_type", 1, 1, True, False), ("boundary", 0, 1, False, True)],
        ),
    ],
)
def test_pairs_by_hand(gold, predicted, pairs):
    assert pair_spans(gold, predicted) == [Pair(*pair) for pair in pairs]


@st.composite
def flat_spans(draw: st.DrawFn) -> list[Span]:
    """Sorted spans over at most a dozen words, touching ones among them."""
    ends = sorted(draw(st.sets(st.integers(0, 12), max_size=9)))
    spans = [Span(left, right - 1, draw(st.sampled_from([A, B]))) for left, right in pairwise(ends)]
    return [span for span in spans if draw(st.booleans())]


@given(st.lists(st.tuples(flat_spans(), flat_spans()), min_size=1, max_size=4))
def test_each_span_is_counted_once_and_the_counts_are_the_metrics(corpus):
    gold, predicted = zip(*corpus, strict=True)
    counts = count_spans(gold, predicted, (A, B))
    tallies: Counter[tuple[str, str]] = Counter()
    for left, right in corpus:
        pairs = pair_spans(left, right)
        assert sorted(pair.gold for pair in pairs if pair.counts_gold) == list(range(len(left)))
        assert sorted(pair.predicted for pair in pairs if pair.counts_predicted) == list(range(len(right)))
        for pair in pairs:
            tallies.update((side, pair.kind) for side, counted in zip("gp", pair[3:], strict=True) if counted)
            if pair.kind in ("missed", "spurious"):
                continue
            one, other = left[pair.gold], right[pair.predicted]
            assert max(one.start, other.start) <= min(one.end, other.end)
            same = one[:2] == other[:2], one.label == other.label
            assert list(KINDS)[[(True, True), (True, False), (False, True), (False, False)].index(same)] == pair.kind
    hits = counts.true_positives.sum()
    assert tallies["g", "correct"] == tallies["p", "correct"] == hits
    assert sum(tallies["g", kind] for kind in KINDS) - hits == (counts.gold - counts.true_positives).sum()
    assert sum(tallies["p", kind] for kind in KINDS) - hits == (counts.predicted - counts.true_positives).sum()


@given(flat_spans(), flat_spans())
def test_both_sides_are_treated_alike(gold, predicted):
    """Exchanged sides exchange missed and spurious, and leave the numbers of all other kinds."""
    other = {"missed": "spurious", "spurious": "missed"}

    def tally(pairs: list[Pair], side: str) -> Counter[str]:
        return Counter(pair.kind for pair in pairs if getattr(pair, side))

    there, back = pair_spans(gold, predicted), pair_spans(predicted, gold)
    for side, opposite in (("counts_gold", "counts_predicted"), ("counts_predicted", "counts_gold")):
        exchanged = {other.get(kind, kind): count for kind, count in tally(back, opposite).items()}
        assert exchanged == tally(there, side)


# -- a result ---------------------------------------------------------------------------------------------------------


def write(
    folder: Path, sentences: list[Sentence], predictions: list[list[ScoredSpan]], labels: LabelSet = LABELS
) -> Path:
    """A result with given predictions, as test.py writes it."""
    gold, found = [sentence.spans for sentence in sentences], flat(predictions)
    counts = count_spans(gold, found, labels.names)
    report = {
        "scores": span_scores(counts).as_dict(),
        "intervals": {name: list(ends) for name, ends in bootstrap_intervals(counts).items()},
        "errors": asdict(error_report(gold, found, labels.names)),
        "token_report": token_report(sentences, found, labels),
        "unreachable_gold": {"gold": 0, "lost": 0, "share": 0.0, "by_reason": {}, "ceiling": {"micro_f1": 1.0}},
        "speed": {"sentences": len(sentences), "sentences_per_second": 1.0, "batch_size": 1},
    }
    record = result_record(
        approach="some",
        variant={"level": "token"},
        data=Dataset("tiny", labels, [], [], sentences, "0"),
        base={"name": "base", "revision": "r", "kind": "bi"},
        seed=None,
        config={},
        parameters={"total": 10, "trainable": 1},
        provenance={},
    )
    record |= {"split": "test", "threshold": 0.5, "precision": "fp32"}
    return write_result(folder, record, Evaluation(predictions, counts, report), sentences)


@pytest.fixture
def result(tmp_path) -> Path:
    """One sentence of each kind of error, one without spans; see :data:`KIND_COUNTS`."""
    words = ["The", "IL-2", "receptor", "gene", "of", "patients", "with", "acute", "liver", "failure", "."]
    gold = [Span(1, 2, "protein"), Span(7, 9, "disease")]
    sentences = [make_sentence(words, gold, f"document {number}") for number in range(5)]
    sentences.append(make_sentence(["Nothing", "here", "."], []))
    predictions = [
        [(Span(1, 2, "protein"), 0.9), (Span(7, 9, "disease"), 0.8)],  # right
        [(Span(1, 3, "protein"), 0.7), (Span(7, 9, "cell type"), 0.6)],  # boundary, type
        [(Span(2, 3, "disease"), 0.55), (Span(7, 9, "disease"), 0.95)],  # boundary and type, right
        [(Span(5, 5, "cell type"), 0.51), (Span(7, 9, "disease"), 0.75)],  # missed and spurious, right
        [(Span(7, 7, "disease"), 0.65), (Span(9, 9, "disease"), 0.85)],  # missed, two boundaries for one gold span
        [],
    ]
    return write(tmp_path, sentences, [[ScoredSpan(*pair) for pair in pairs] for pairs in predictions])


KIND_COUNTS = {
    "correct": (4, 4),
    "type": (1, 1),
    "boundary": (2, 3),
    "boundary_and_type": (1, 1),
    "missed": (2, None),
    "spurious": (None, 1),
}
"""Gold spans and predictions of each kind in ``result``."""


def test_figures_by_hand(result):
    data = page_data(result)
    assert {kind["name"]: (kind["gold"], kind["predicted"]) for kind in data["kinds"]} == KIND_COUNTS
    assert data["types"] == ["protein", "cell type", "disease"]
    assert data["confusion"] == {
        "same": [[1, 0, 0], [0, 0, 0], [0, 1, 3]],
        "gold_kinds": ("boundary", "boundary_and_type", "missed"),
        "gold": [[1, 1, 2], [0, 0, 0], [1, 0, 0]],
        "predicted_kinds": ("boundary", "boundary_and_type", "spurious"),
        "predicted": [[1, 0, 2], [0, 0, 1], [0, 1, 0]],
    }
    assert data["sentences"][5] == {"words": "Nothing here .", "gold": [], "predicted": [], "pairs": []}
    assert [sentence.get("document") for sentence in data["sentences"][3:]] == ["document 3", "document 4", None]
    assert data["title"] == "some (token) on tiny"
    assert dict(data["facts"])["threshold"] == "0.5"
    result.write_text(json.dumps(json.loads(result.read_text("utf-8")) | {"type_thresholds": {"disease": 0.44}}))
    assert dict(page_data(result)["facts"])["threshold"] == "0.5 (disease 0.44)"
    micro, macro = data["scores"]["averages"]
    assert micro["f1"] == pytest.approx(2 * 4 / (10 + 10))
    assert micro["support"] == 10
    assert micro["interval"][0] <= micro["f1"] <= micro["interval"][1]
    assert macro["f1"] == pytest.approx((2 / (2 + 5) + 0 + 2 * 3 / (6 + 5)) / 3)


def test_a_result_of_format_1_has_its_page(tmp_path):
    page = tmp_path / "page.html"
    main([str(FORMAT_1), "--output", str(page)])
    stored = json.loads(FORMAT_1.read_text("utf-8"))
    kinds = {kind["name"]: kind for kind in embedded(page)["kinds"]}
    assert {name: stored["errors"][name] for name in ("type", "boundary", "boundary_and_type", "missed")} == {
        name: kinds[name]["gold"] for name in ("type", "boundary", "boundary_and_type", "missed")
    }
    assert stored["errors"]["spurious"] == kinds["spurious"]["predicted"] > 0


# -- bad input --------------------------------------------------------------------------------------------------------


def changed(line: int, **fields: Any) -> Callable[[list[str]], list[str]]:
    """A change of one line of a file of predictions, counted from 0."""

    def change(lines: list[str]) -> list[str]:
        lines[line] = json.dumps(json.loads(lines[line]) | fields)
        return lines

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "holds 0 sentences, .* is of 6"),
        (lambda lines: lines[:-1], "holds 5 sentences, .* is of 6"),
        (lambda lines: [*lines[:-1], lines[-1][:20]], "line 6: not whole JSON"),
        (lambda lines: ["[]", *lines], "line 1: expected an object, got list"),
        (changed(1, predicted=None), "line 2: the record: predicted must be a list, got None"),
        (changed(1, predicted=[3]), r"line 2: the record: predicted\[0\] must be a list, got 3"),
        (changed(1, predicted=[[1, 2, A]]), r"line 2: a prediction must be \[start, end, type, score\], got \[1, 2,"),
        (changed(1, predicted=[[1, "2", A, 0.5]]), "line 2: prediction .*: end must be a whole number, got '2'"),
        (changed(1, predicted=[[1, 2, A, 1.5]]), "line 2: prediction .*: score must be between 0 and 1, got 1.5"),
        (changed(1, predicted=[[1, 2, A, float("nan")]]), "line 2: .* must be a finite number, got nan"),
        (changed(1, predicted=[[1, 99, A, 0.5]]), "line 2: span .* is out of range for 11 words"),
        (changed(1, predicted=[[1, 3, A, 0.5], [2, 4, B, 0.5]]), "line 2: spans overlap"),
        (changed(1, predicted=[[1, 2, "gene", 0.5]]), "line 2: unknown type 'gene', the result has"),
        (changed(1, tokenized_text=["a b"]), "line 2: word 0 holds white space"),
        (
            changed(1, predicted=[[1, 2, A, 0.5]]),
            r"is not of tiny_.*\.json: its precision of micro is 0\.\d{6}, the result's",
        ),
    ],
)
def test_a_bad_file_of_predictions_is_named(result, change, message):
    beside = predictions_path(result)
    lines = change(beside.read_text("utf-8").splitlines())
    beside.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_predictions(result)
    assert str(caught.value).startswith(str(beside))
    assert "\n" not in str(caught.value)


def test_a_result_without_predictions_says_what_to_do(result):
    predictions_path(result).unlink()
    with pytest.raises(InputError, match=r"_predictions\.jsonl: no such file; .* test again to make it"):
        main([str(result)])
    assert not list(result.parent.glob("*.html"))


def test_only_a_page_is_written(result):
    before = result.read_bytes()
    with pytest.raises(InputError, match=r"--output .*\.json: must end in \.html"):
        main([str(result), "--output", str(result)])
    assert result.read_bytes() == before
    assert write_page(result) == result.with_name(f"{result.stem}_errors.html")


def test_predictions_are_read_as_they_were_written(result):
    sentences, predictions = zip(*read_predictions(result), strict=True)
    assert [sentence.document for sentence in sentences] == [*(f"document {number}" for number in range(5)), None]
    assert predictions[1] == [(Span(1, 3, "protein"), 0.7), (Span(7, 9, "cell type"), 0.6)]


# -- escaping ---------------------------------------------------------------------------------------------------------

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "&lt;b&gt;",
    "a\u2028b\u2029",
    "'\"`${x}\\u003c",
    "{{DATA}}",
)
LABELS_HOSTILE = LabelSet(
    ('"><img/src=x/onerror=alert(1)>', "</textarea>"), ("An attack.", "Another."), "Any other word."
)


class Elements(HTMLParser):
    """The tags of a page, and the texts of its scripts."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.scripts: list[str] = []
        self.inside = False
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags[tag] += 1
        self.inside = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "script"

    def handle_data(self, text: str) -> None:
        if self.inside:
            self.scripts.append(text)


def embedded(page: Path) -> dict:
    """The data of a page."""
    return json.loads(Elements(page).scripts[0])


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A page whose words, types and document are markup."""
    first, second = LABELS_HOSTILE.names
    sentence = make_sentence(HOSTILE, [Span(0, 1, first), Span(3, 3, second)], HOSTILE[0])
    found = [ScoredSpan(Span(0, 1, second), 0.5), ScoredSpan(Span(4, 6, first), 0.5)]
    return write_page(write(tmp_path, [sentence], [found], LABELS_HOSTILE))


def test_no_text_becomes_markup(hostile, result):
    assert Elements(hostile).tags == Elements(write_page(result)).tags
    data = embedded(hostile)
    assert data["sentences"][0]["words"].split(" ") == list(HOSTILE)
    assert data["types"] == list(LABELS_HOSTILE.names)
    raw = Elements(hostile).scripts[0]
    assert raw.isascii()
    assert not set("<>&") & set(raw)


def test_the_page_is_alone(result):
    """Nothing is fetched: no address in it but those inside itself, and the browser is told to allow none."""
    page = write_page(result).read_text("utf-8")
    assert not re.findall(r"https?://|//\w+\.|@import|url\(|\bsrc=", page)
    assert "default-src 'none'" in page


# -- in a browser -----------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900"]


class Browser:
    """A page in Chromium by its DevTools protocol, which the tests' dependency tornado can speak."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.number = connection, 0

    async def command(self, method: str, **parameters: Any) -> dict:
        self.number += 1
        await self.connection.write_message(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self.connection.read_message())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        answer = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until an expression is true."""
        for _ in range(200):
            if await self.value(expression):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"never came true: {expression}: {await self.value(STATUS)}")

    async def click(self, selector: str) -> None:
        """Clicks into the middle of an element as a mouse does."""
        place = await self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            await self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text * (kind == "keyDown"),
            )


STATUS = "document.getElementById('status').textContent"
SHOWN = "[...document.querySelectorAll('#sentences h3 a')].map((link) => Number(link.textContent.split(' ')[1]))"


def browse(page: Path, visit: Callable[[Browser], Any], folder: Path, address: str = "") -> None:
    """Opens a page and lets ``visit`` act on it."""
    from tornado.httpclient import AsyncHTTPClient
    from tornado.websocket import websocket_connect

    command = [
        str(CHROMIUM),
        *OPTIONS,
        "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}",
        "about:blank",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = next(
                found[1]
                for line in process.stderr
                if (found := re.search(r"DevTools listening on ws://[^:]+:(\d+)", line))
            )

            async def run() -> None:
                answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
                target = next(item for item in json.loads(answer.body) if item["type"] == "page")
                with contextlib.closing(
                    await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=2**28)
                ) as connection:
                    browser = Browser(connection)
                    await browser.command("Page.enable")
                    await browser.command("Page.navigate", url=page.as_uri() + address)
                    await browser.until("document.readyState === 'complete' && location.protocol === 'file:'")
                    await visit(browser)

            asyncio.run(run())
        finally:
            process.terminate()


@needs_chromium
@pytest.mark.slow
def test_filters_are_clicked(result, tmp_path):
    async def visit(browser: Browser) -> None:
        assert await browser.value(SHOWN) == [2, 3, 4, 5]
        assert await browser.value(STATUS) == "4 of 6 sentences with 6 gold spans and 6 predictions that match"
        # A kind is taken out, by mouse.
        await browser.click("input[value=boundary]")
        await browser.until(f"{SHOWN}.join() === '2,3,4,5' && {STATUS}.includes('4 gold spans and 3 predictions')")
        await browser.click("input[value=missed]")
        await browser.until(f"{SHOWN}.join() === '2,3,4'")
        assert "kind=type%2Cboundary_and_type%2Cspurious" in await browser.value("location.hash")
        # Reset, by keyboard, puts the focus on the list.
        await browser.value("document.querySelector('button[type=reset]').focus()")
        await browser.press("Enter", 13, "\r")
        await browser.until(f"{SHOWN}.join() === '2,3,4,5' && location.hash === ''")
        assert await browser.value("document.activeElement.id") == "found"
        # A figure of the confusion table leads to its sentences: gold disease, predicted cell type.
        await browser.click("#confusion tbody tr:nth-child(3) td:nth-child(3) a")
        await browser.until(f"{SHOWN}.join() === '2' && {STATUS}.includes('1 gold span and 1 prediction')")
        assert await browser.value("document.getElementById('gold').selectedOptions[0].text") == "disease"
        assert await browser.value("document.querySelectorAll('mark.hit').length") == 2
        await browser.value("history.back()")
        await browser.until(f"{SHOWN}.join() === '2,3,4,5'")
        # Text is typed.
        await browser.value("document.getElementById('text').focus()")
        await browser.command("Input.insertText", text="DOCUMENT 3")
        await browser.until(f"{SHOWN}.join() === '4'")
        assert await browser.value("document.getElementById('text').value") == "DOCUMENT 3"

    browse(write_page(result), visit, tmp_path)


@needs_chromium
@pytest.mark.slow
def test_a_narrow_page_starts_with_its_sentences_and_is_never_scrolled_sideways(result, tmp_path):
    async def visit(browser: Browser) -> None:
        await browser.command(
            "Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True
        )
        await browser.command("Page.reload")
        await browser.until("innerWidth === 400 && document.readyState === 'complete'")
        assert await browser.value("document.documentElement.scrollWidth") == 400
        assert await browser.value("document.getElementById('kind-choices').checkVisibility()") is False
        await browser.value("document.querySelector('summary').focus()")
        await browser.press("Enter", 13, "\r")
        await browser.until("document.getElementById('kind-choices').checkVisibility()")
        # From there, one tabulator and a space take the first kind in.
        await browser.press("Tab", 9)
        await browser.press(" ", 32, " ")
        await browser.until(f"{SHOWN}.join() === '1,2,3,4,5'")

    browse(write_page(result), visit, tmp_path)


@needs_chromium
@pytest.mark.slow
def test_the_address_holds_the_filters(result, hostile, tmp_path):
    async def visit(browser: Browser) -> None:
        async def shown(address: str) -> list[int]:
            await browser.value(f"location.hash = {json.dumps(address)}")
            await asyncio.sleep(0.1)
            return await browser.value(SHOWN)

        for kind, (gold, predicted) in KIND_COUNTS.items():
            await shown(f"kind={kind}")
            status = await browser.value(STATUS)
            assert re.search(rf"with {gold or 0} gold spans? and {predicted or 0} predictions? that match", status), (
                kind
            )
        assert await shown("kind=none") == [6]
        assert await shown("kind=correct,type,boundary,boundary_and_type,missed,spurious,none") == [1, 2, 3, 4, 5, 6]
        assert await shown("kind=toString") == []
        assert await browser.value(STATUS) == "No sentence matches the filters."
        assert await shown("kind=missed") == [4, 5]
        assert await shown("kind=missed&min=0") == []
        assert await shown("min=0.6&max=0.7") == [2, 5]
        assert await shown("max=0.6") == [2, 3, 4]
        assert await shown("gold=protein") == [2, 3, 4, 5]
        assert await shown("gold=protein&predicted=disease") == [3]
        assert await shown("order=high") == [5, 2, 3, 4]
        assert await shown("order=low") == [4, 3, 2, 5]
        assert await shown("order=most") == [5, 2, 4, 3]
        assert await shown("sentence=6") == [6]
        assert await shown("gold=unknown&page=99&min=x&order=up") == [2, 3, 4, 5]
        # No text of the corpus has become an element or has run.
        await browser.command("Page.navigate", url=hostile.as_uri())
        await browser.until(f"document.readyState === 'complete' && {SHOWN}.length === 1")
        assert await browser.value("document.querySelectorAll('img, textarea, b').length") == 0
        assert await browser.value("document.querySelectorAll('script').length") == 2
        text = await browser.value("document.querySelector('#sentences .sides p:nth-child(2)').textContent")
        assert all(word in text for word in HOSTILE)

    browse(write_page(result), visit, tmp_path)


@needs_chromium
@pytest.mark.slow
def test_thousands_of_sentences_are_shown_by_pages(tmp_path):
    generator = random.Random(1)
    sentences = [generated_sentence(generator, 2) for _ in range(5000)]
    page = write_page(write(tmp_path, sentences, [[] for _ in sentences]))

    async def visit(browser: Browser) -> None:
        assert await browser.value(SHOWN) == list(range(1, 51))
        assert await browser.value("document.getElementById('of').textContent") == "of 100"
        assert await browser.value("document.getElementById('previous').disabled")
        await browser.click("#next")
        await browser.until(f"{SHOWN}[0] === 51")
        await browser.value("document.getElementById('page').value = 100")
        await browser.value("document.getElementById('page').dispatchEvent(new Event('change'))")
        await browser.until("document.querySelector('#sentences h3 a').textContent === 'Sentence 4,951'")
        assert await browser.value("document.getElementById('next').disabled")
        assert await browser.value("document.querySelectorAll('#sentences > li').length") == 50

    browse(page, visit, tmp_path)
