"""Runs side by side: which is best, where their run files differ, what was skipped."""

from __future__ import annotations

import json
import math
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from video_llama.apps.main import main
from video_llama.apps.report import write_report
from video_llama.apps.report_charts import Series, line_chart
from video_llama.apps.report_runs import compare, differences, draw_run, read_runs, smooth, style_of
from video_llama.common.logger import get_logger


def write_run(folder, *, valid, run=None, skipped=(), num_bad=0, steps=(10, 20, 30)):
    folder.mkdir(parents=True)
    lines = [
        {
            "step": step,
            "kind": "train",
            "loss": 2.0 / step,
            "lr": 0.1,
            "samples_per_s": float(step),
            "mfu": None,
        }
        for step in steps
    ]
    lines += [
        {"step": step, "kind": "valid", "valid_loss": loss}
        for step, loss in zip(steps, valid, strict=False)
    ]
    files = {
        "metrics": lines,
        "skipped": [{"dataset": name, "key": "a"} for name in skipped],
        "bad_steps": [{"step": 1}] * num_bad,
    }
    for name, records in files.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    tree = {"run": {"output_dir": str(folder), "seed": 1, **(run or {})}, "model": {"arch": "x"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    return folder


@pytest.fixture
def folders(tmp_path):
    return [
        write_run(tmp_path / "plain", valid=[0.5, 0.3, 0.4], skipped=["webvid"] * 3),
        write_run(
            tmp_path / "wider", valid=[0.5, 0.45], run={"init_lr": 0.01, "seed": 2}, num_bad=2
        ),
    ]


def test_the_best_run_is_the_one_with_the_lowest_validation_loss(folders):
    both = compare(read_runs(folders))
    row = dict(zip(both.headers, both.rows[0][1], strict=True))
    assert both.best == 0
    assert (row["lowest validation loss"], row["at step"]) == ("0.3000", "20")
    # 10, 20 and 30 samples per second.
    assert row["samples/s"] == "20.0"


@pytest.mark.parametrize("valid", [[math.nan, 0.2], [0.2, math.nan], [-math.inf, 0.2]])
def test_a_loss_that_is_no_number_is_not_the_lowest(tmp_path, folders, valid):
    odd = write_run(tmp_path / "odd", valid=valid)
    broken = write_run(tmp_path / "broken", valid=[math.nan, math.nan])
    together = compare(read_runs([*folders, broken, odd]))
    assert together.best == 3
    column = together.headers.index("lowest validation loss")
    assert [texts[column] for _, texts in together.rows] == ["0.3000", "0.4500", "-", "0.2000"]
    assert ("lowest validation loss", "-") in draw_run(read_runs([broken])[0]).facts


def test_a_run_that_was_never_validated_is_not_the_best(tmp_path, folders):
    silent = write_run(tmp_path / "silent", valid=[])
    both = compare(read_runs([silent, *folders]))
    assert both.best == 1
    assert dict(zip(both.headers, both.rows[0][1], strict=True))["lowest validation loss"] == "-"


def test_columns_that_nobody_fills_are_left_out(folders):
    headers = compare(read_runs(folders)).headers
    assert "MFU" not in headers
    assert {"skipped samples", "bad steps"} <= set(headers)


def test_only_keys_that_differ_are_listed_and_folders_are_none(folders):
    assert differences(read_runs(folders)) == [
        ("run.init_lr", ("not set", "0.01")),
        ("run.seed", ("1", "2")),
    ]


def test_skips_are_counted_by_data_set(folders):
    assert compare(read_runs(folders)).skips == (("webvid", (3, 0)),)


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    runs = [write_run(tmp_path / name / "stage1", valid=[0.1]) for name in ("old", "new")]
    assert [run.name for run in read_runs(runs)] == ["old/stage1", "new/stage1"]


def test_more_runs_than_colours_are_dashed_and_none_looks_like_another():
    styles = [style_of(number) for number in range(16)]
    assert len(set(styles)) == 16
    assert styles[8] == "run-1 dashed"


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=400))
def test_smoothing_keeps_places_and_stays_within_the_values(values):
    points = list(enumerate(values))
    smoothed = smooth(points)
    assert [x for x, _ in smoothed] == [x for x, _ in points]
    assert all(min(values) - 1e-9 <= y <= max(values) + 1e-9 for _, y in smoothed)


def test_few_points_are_shown_as_they_are():
    points = [(1, 2.0), (2, 4.0), (3, 0.0)]
    assert smooth(points) == points


def test_an_axis_spans_the_losses_where_zero_is_far():
    series = [Series("a", [(0, 2.05), (10, 2.01)], "run-1")]
    near = line_chart(series, x_label="x", y_label="y", starts_at_zero=False)
    assert ">0</text>" not in near.split("text-anchor")[1]
    assert ">2.01</text>" in near
    assert ">0.5</text>" in line_chart(series, x_label="x", y_label="y")


@pytest.mark.parametrize(("value", "text"), [(20_000, "20k"), (4e-4, "4e-4"), (0.5, "0.5")])
def test_numbers_of_an_axis_are_short(value, text):
    chart = line_chart([Series("a", [(0, 0.0), (1, value)], "run-1")], x_label="", y_label="")
    assert f">{text}</text>" in chart


def test_the_page_compares_the_runs_it_was_given(folders, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert main(["report", *map(str, folders), "--out", str(out)]) == 0
    page = out.read_text()
    assert '<details id="comparison" open>' in page
    assert len(re.findall(r'class="curve run-1"', page)) >= 4
    assert "run.init_lr" in page
    assert "model.arch" not in page
    assert str(out) in capsys.readouterr().out


def test_stages_below_a_folder_are_compared_on_demand(folders, tmp_path):
    out = tmp_path / "report.html"
    write_report([tmp_path], out=out)
    assert '<details id="comparison">' in out.read_text()


def test_one_run_has_nothing_to_be_compared_with(folders, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(get_logger(), "info", lambda text, *values: said.append(text % values))
    out = tmp_path / "report.html"
    write_report(folders[:1], out=out)
    assert said[0].startswith("report of 1 run and 0 evaluations: ")
    assert "comparison" not in out.read_text()


def test_names_of_runs_cannot_become_markup(tmp_path, folders):
    odd = write_run(tmp_path / "<b>odd", valid=[0.1], run={"note": "<script>x</script>"})
    out = tmp_path / "report.html"
    write_report([odd, folders[0]], out=out)
    page = out.read_text()
    assert "<b>odd" not in page
    assert "<script>" not in page


def test_no_folder_is_a_mistake_that_is_named(capsys):
    assert main(["report"]) == 2
    assert "name at least one folder" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_comparison_is_readable_on_a_phone_and_fetches_nothing(
    browser, folders, tmp_path, scheme
):
    out = tmp_path / "report.html"
    write_report(folders, out=out)
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    fetched = []
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(out.as_uri(), timeout=120_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert fetched == [out.as_uri()]
    # No key of the table of differences lies over the value beside it.
    overlaps = page.evaluate(
        """() => [...document.querySelectorAll("td.dotted")].filter(cell =>
            cell.scrollWidth > cell.clientWidth + 1).length"""
    )
    assert overlaps == 0
    page.close()
