"""The page of a comparison: readable by itself, in words first, with examples to look at."""

from __future__ import annotations

import re

import numpy as np
import pytest
from compared_runs import KEYS, an_answer, answers, write_answers, write_run

from video_llama.apps.compare_answers import compare_answers
from video_llama.apps.compare_cells import compare_cells, save_comparison
from video_llama.apps.compare_curves import Curve, Panel, read_panels, to_series
from video_llama.apps.compare_examples import find_examples
from video_llama.apps.compare_runs import CellRuns
from video_llama.apps.compare_training import read_trainings
from video_llama.apps.report_page import render_page
from video_llama.toy.codec import encode_mp4


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of 1 s without sound."""
    frames = np.stack([np.full((64, 64, 3), 20 * i, dtype=np.uint8) for i in range(8)])
    path = tmp_path_factory.mktemp("media") / "brighter.mp4"
    path.write_bytes(encode_mp4(frames, frames_per_s=8))
    return path


@pytest.fixture(scope="module")
def cells(tmp_path_factory, clip):
    """Two cells with two seeds each, `<b>wider` better; question q12 is about a real clip."""
    folder = tmp_path_factory.mktemp("cells")

    def asked(first, num):
        found = answers(num, first=first)
        found[12] = an_answer("q12", first <= 12 < first + num, clip=clip)
        return found

    return [
        CellRuns(
            name,
            seed,
            (write_run(folder / name / f"seed_{seed}" / "stage1", seed=seed, loss=loss),),
            (write_answers(folder / name / f"seed_{seed}" / "eval_test", asked(first, num)),),
        )
        for name, first, num, loss in (("plain", 0, 12, 1.0), ("<b>wider", 2, 37, 0.5))
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def out(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("out")
    comparison = compare_cells(cells, baseline="plain", title="Wider?", question="Does width help?")
    save_comparison(comparison, folder=folder)
    return folder


@pytest.fixture(scope="module")
def page(out):
    return (out / "report.html").read_text()


def test_the_page_needs_nothing_from_elsewhere(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "@import" not in page
    assert "url(" not in page


def test_the_question_and_the_verdict_stand_above_all_numbers(page):
    top = page[: page.index("<h2")]
    assert "Does width help?" in top
    assert "&lt;b&gt;wider is better than plain: +62.5 points" in top
    assert "2 pairs of runs saw the same samples in the same order" in top


def test_names_and_answers_cannot_become_markup(page):
    assert "<b>wider" not in page
    assert "&lt;blue&gt;" in page
    assert "<blue>" not in page


def test_every_link_of_the_page_leads_somewhere(page):
    for anchor in re.findall(r'href="#([^"]*)"', page):
        assert f'id="{anchor}"' in page


def test_seeds_are_thin_lines_below_their_mean(cells):
    panels = read_panels(read_trainings(cells), names=["plain", "<b>wider"])
    assert [panel.note for panel in panels] == ["training loss, running mean", "validation loss"]
    series = to_series(panels[0], styles={"plain": "run-1", "<b>wider": "run-2"})
    assert [s.style for s in series] == ["run-1 seed"] * 2 + ["run-1"] + ["run-2 seed"] * 2 + [
        "run-2"
    ]


def test_a_mean_is_taken_where_all_seeds_have_been():
    curve = Curve("a", (((1, 2.0), (2, 4.0)), ((1, 4.0), (2, 6.0), (3, 9.0))))
    assert curve.mean == [(1, 3.0), (2, 5.0)]


def test_one_seed_is_one_line():
    panel = Panel("stage1", "training loss", (Curve("a", (((1, 2.0),),)),), False)
    assert [s.style for s in to_series(panel, styles={"a": "run-1"})] == ["run-1"]


def test_examples_are_questions_the_cells_disagree_on_both_ways(cells):
    (compared,) = compare_answers(cells, baseline="plain")
    examples = find_examples(compared)
    said = [
        (example.question.key, [(cell, answer.correct) for cell, answer in example.answers])
        for example in examples
    ]
    # Both have 2 to 11 right; 12 to 38 only the wider one, 0 and 1 only the plain one.
    better, worse = [("<b>wider", True), ("plain", False)], [("<b>wider", False), ("plain", True)]
    assert said == [("q12", better), ("q25", better), ("q0", worse), ("q1", worse)]


def test_an_example_shows_its_clip_and_names_one_that_is_gone(page):
    assert 'alt="frame 1"' in page
    assert "clip25.mp4" in page
    assert "brighter.mp4, seed 0" in page


def test_other_data_are_said_at_the_top(tmp_path, cells):
    odd = CellRuns("odd", 0, (write_run(tmp_path / "odd", keys=["z", *KEYS[1:]]),))
    comparison = compare_cells([cells[0], odd], baseline="plain", title="x", question="")
    save_comparison(comparison, folder=tmp_path)
    page = (tmp_path / "report.html").read_text()
    top = page[: page.index("<h2")]
    assert (
        "Not the same data. odd, seed 0, odd / stage1: step 1, position 0: &#39;z&#39; and" in top
    )


def test_a_template_may_include_others_and_escapes():
    text = render_page("report_film.html.j2", values={})
    assert text.strip() == ""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_on_a_phone_and_fetches_nothing(browser, out, scheme):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    fetched = []
    page.on("request", lambda request: fetched.append(request.url))
    address = (out / "report.html").as_uri()
    page.goto(address, timeout=120_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert [url for url in fetched if not url.startswith("data:")] == [address]
    page.close()
