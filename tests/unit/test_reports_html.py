"""The page: whole, self-contained, harmless whatever a service answered, and drawn from what was measured."""

import base64
import hashlib
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree.ElementTree import fromstring

import pytest
from blackstart.drills.measure.values import QualityLoss
from blackstart.drills.verdict import Reason
from blackstart.reports.chart import MOST_MARKS, pictures
from blackstart.reports.html import html
from blackstart.reports.sentence import parts
from blackstart.tests.unit import report_fixture as runs

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = "</style></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}\x00\x1b[31m"


class Page(HTMLParser):
    """Elements with their attributes; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


@pytest.mark.parametrize("kind", [*runs.KINDS])
def test_page_nests_and_says_the_whole_sentence(kind: str) -> None:
    run = runs.KINDS[kind]()
    page = Page(html(run))
    told = parts(run)
    if kind != "dirty":  # there the command is set as code
        assert (told.users[:1].upper() + told.users[1:]) in page.text
    assert told.rest in page.text
    assert told.following in page.text
    for judged in run.judgement.objectives:
        assert judged.text in page.text


@pytest.mark.parametrize("kind", [*runs.KINDS])
def test_page_loads_nothing(kind: str) -> None:
    page = Page(html(runs.KINDS[kind]()))
    for tag, attributes in page.found:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        assert "style" not in attributes  # the policy forbids inline style
        assert not any(name.startswith("on") for name in attributes)
        if tag != "a":
            assert (attributes.get("href") or "#").startswith("#")
        else:
            assert (attributes["href"] or "").startswith("https://")
    assert "@import" not in html(runs.KINDS[kind]())


def test_policy_names_the_digests_of_what_is_in_the_page() -> None:
    text = html(runs.passed())
    policy = re.search(r'Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    for name in ("style", "script"):
        inner = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        assert inner is not None
        digest = base64.b64encode(hashlib.sha256(inner[1].encode()).digest()).decode()
        assert f"{name}-src &#39;sha256-{digest}&#39;" in policy[1]
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]


def test_hostile_text_is_shown_and_never_run() -> None:
    measurement = runs.failed().measurement
    evil = replace(
        runs.FAULT, kind=EVIL, certifies=EVIL, undo_problem=EVIL, undo_verified=False,
        targets=({"identity": EVIL, "name": EVIL, "role": EVIL, "details": {EVIL: EVIL}},),
        evidence={"source": EVIL, "detail": EVIL, "facts": {"before": {EVIL: EVIL}, "after": {EVIL: [EVIL]}, EVIL: {EVIL: EVIL}}},
    )  # fmt: skip
    lanes = tuple(replace(x, info=replace(x.info, component=EVIL)) for x in measurement.lanes)
    quality = QualityLoss(1, 1, 20.0, 20.0, EVIL, EVIL, (EVIL,))
    run = replace(
        runs.failed(), faults=(evil,), environment={EVIL: EVIL},
        judgement=replace(runs.failed().judgement, reasons=(Reason(EVIL, EVIL),)),
        scenario=replace(runs.SCENARIO, title=EVIL, lessons=EVIL, rehearses=("javascript:alert(1)", EVIL)),
        probes=tuple(p._replace(text=EVIL, backend=EVIL) for p in runs.failed().probes),
        journal=runs.journal([(0.0, EVIL, {EVIL: EVIL, "step": EVIL})]),
        measurement=replace(measurement, lanes=lanes, quality_loss=quality, missing={EVIL: EVIL}, health_honesty_gap={EVIL: None},
                            time_to_detect={EVIL: None}),
    )  # fmt: skip
    text = html(run)
    page = Page(text)
    assert [tag for tag, _ in page.found].count("script") == 1
    assert "img" not in [tag for tag, _ in page.found]
    assert not any("javascript:" in (a.get("href") or "") for _, a in page.found)
    assert "49" not in page.text.split("{{ 7*7 }}")[0][-3:]
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "{{ 7*7 }}" in page.text


@pytest.mark.parametrize("kind", [*runs.KINDS])
def test_drawings_are_well_formed_and_within_the_budget(kind: str) -> None:
    drawn = pictures(runs.KINDS[kind]())
    assert sum(picture.marks for picture in drawn) <= MOST_MARKS
    for picture in drawn:
        root = fromstring(f'<x xmlns:xlink="x">{picture.drawing}</x>')
        for element in root.iter():
            for name in ("x", "cx", "x1", "x2"):
                place = element.get(name, "0%")
                assert not place.endswith("%") or 0 <= float(place[:-1]) <= 100


def test_short_interruption_gets_a_close_up_and_a_long_one_does_not() -> None:
    assert len(pictures(runs.passed())) == 2
    assert len(pictures(runs.partial())) == 1


def test_every_failed_answer_is_in_the_picture() -> None:
    run = runs.passed()
    bad = sum(p.outcome == "refused" for p in run.probes if p.lane in {"fresh", "reuse", "semantic"})
    assert pictures(run)[0].drawing.count('href="#s-failed"') == bad + sum(p.outcome == "reset" for p in run.probes)


def test_picture_shows_bracket_objective_line_and_undone_fault() -> None:
    drawing = pictures(runs.passed())[0].drawing
    assert "2.93 s [2.91, 2.95]" in drawing
    assert "RTO missed from +60 s" in drawing
    assert "undone, proven" in drawing
    assert "not recovered" in pictures(runs.failed())[0].drawing
    assert "never noticed" in pictures(runs.failed())[0].drawing


def test_the_recoverys_parts_are_a_bar_and_a_table_of_the_replica_that_was_last() -> None:
    run = runs.on_kubernetes()
    page = Page(html(run))
    assert "r1 was the last of 2 replicas to be ready; its steps are shown." in page.text
    assert "the volumes and the image of r1 were there 2.1 s [1.9, 2.3] 25.4 %" in page.text
    assert "the containers of r0 ran" in page.text  # among all moments both replicas are told
    (bar,) = [attributes for tag, attributes in page.found if tag == "svg" and attributes.get("class") == "anatomy"]
    assert "until the volumes and the image of r1 were there 2.07 s" in (bar["aria-label"] or "")
    widths = re.findall(r'<svg x="[\d.]+%" width="([\d.]+)%" height="34" class="part', html(run))
    assert len(widths) == len(run.measurement.anatomy)
    assert sum(map(float, widths)) == pytest.approx(100, abs=0.1)


def test_sections_with_nothing_to_say_are_left_out() -> None:
    text = html(runs.inconclusive())
    assert 'id="fault"' not in text
    assert 'id="recovery"' not in text
    assert "Figures that could not be had" in text
    assert 'id="recovery"' in html(runs.passed())
    assert "Figures that could not be had" not in html(runs.passed())


def test_died_before_the_first_probe_still_makes_a_page() -> None:
    empty = replace(runs.inconclusive().measurement, lanes=(), outages=(), streams=None, time_to_detect={}, health_honesty_gap={})
    page = Page(html(replace(runs.inconclusive(), probes=(), measurement=empty, journal=())))
    assert "What users went through" not in page.text


def test_broken_journal_is_told_loudly() -> None:
    assert "hash chain is broken" in html(replace(runs.passed(), journal_intact=False))


def test_an_hour_stays_small_and_quick() -> None:
    run = runs.hour()
    begin = time.process_time()
    text = html(run)
    # 2 s are promised on a quiet machine (0.9 s measured); a shared one may be slower, never by more than this.
    assert time.process_time() - begin < 5
    assert len(text.encode()) < 2_000_000
    assert sum(picture.marks for picture in pictures(run)) <= MOST_MARKS
