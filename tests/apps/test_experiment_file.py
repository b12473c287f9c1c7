"""The file of an experiment: its keys, its grid, the layers of its options."""

import pytest
import yaml

from video_llama.apps.experiment_cells import open_cells
from video_llama.apps.experiment_file import read_experiment
from video_llama.common.errors import ConfigError

TWO = {"title": "T", "recipes": ["a/one.yaml", "a/two.yaml"], "evaluate": ["b/ask.yaml"]}


def opened(tmp_path, words=None, **content):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**TWO, **content}, sort_keys=False))
    return open_cells(read_experiment(path), options=words or {})


def refused(tmp_path, **content):
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path, **content)
    return str(caught.value)


def test_unknown_keys_are_all_named_with_the_nearest_known_ones(tmp_path):
    text = refused(tmp_path, sead=[1], cells={"a": {"option": {}}})
    assert "2 problems" in text
    assert "sead: unknown key, did you mean 'seeds'?" in text
    assert "cells.a.option: unknown key, did you mean 'options'?" in text


def test_a_missing_file_names_those_that_are_there(tmp_path):
    (tmp_path / "bridges.yaml").write_text("title: T")
    with pytest.raises(ConfigError, match="no file .*bridge.yaml; there are .*bridges.yaml"):
        read_experiment(tmp_path / "bridge.yaml")


def test_a_grid_is_one_cell_for_every_choice_of_values(tmp_path):
    grid = {
        "bridge": {"mlp": {"model.x": 1}, "qformer": {}},
        "frames": {1: {"model.t": 1}, 8: {"model.t": 8}},
    }
    cells = opened(tmp_path, grid=grid)
    assert [cell.name for cell in cells] == ["mlp-1", "mlp-8", "qformer-1", "qformer-8"]
    assert cells[1].steps[0].options == {"model.x": 1, "model.t": 8}


def test_a_value_without_overrides_may_be_left_empty_and_so_may_cells_beside_a_grid(tmp_path):
    grid = {"bridge": {"mlp": {"model.x": 1}, "qformer": None}}
    cells = opened(tmp_path, grid=grid, cells=None)
    assert [(cell.name, cell.steps[0].options) for cell in cells] == [
        ("mlp", {"model.x": 1}),
        ("qformer", {}),
    ]
    assert [cell.name for cell in opened(tmp_path, cells={"a": None}, grid=None)] == ["a"]


def test_the_baseline_comes_first_and_is_the_first_cell_unless_named(tmp_path):
    cells = {"a": None, "b": None}
    assert opened(tmp_path, cells=cells)[0].name == "a"
    assert opened(tmp_path, cells=cells, baseline="b")[0].name == "b"


def test_later_layers_of_options_win(tmp_path):
    layers = {
        "options": {"k": "experiment", "e": 1},
        "train_options": {"k": "experiment, recipes"},
        "own_options": {"two": {"k": "experiment, file"}},
    }
    cell = {
        "options": {"k": "cell"},
        "eval_options": {"k": "cell, evaluations"},
        "own_options": {"two": {"k": "cell, file"}},
    }
    plain, changed = opened(tmp_path, **layers, cells={"a": None, "b": cell})
    assert [step.options["k"] for step in plain.steps] == [
        "experiment, recipes",
        "experiment, file",
        "experiment",
    ]
    assert [step.options["k"] for step in changed.steps] == [
        "cell",
        "cell, file",
        "cell, evaluations",
    ]
    (only,) = opened(tmp_path, {"k": "command line"}, cells={"b": cell})
    assert {step.options["k"] for step in only.steps} == {"command line"}


def test_an_override_is_applied_after_all_that_it_overrides(tmp_path):
    cell = {"options": {"model.part": {"type": "b"}}}
    content = {"options": {"model.part.width": 3}, "cells": {"a": cell}}
    (changed,) = opened(tmp_path, {"model.part.width": 5}, **content)
    assert list(changed.steps[0].options) == ["model.part", "model.part.width"]


def test_a_recipe_starts_from_the_one_before_and_an_evaluation_from_the_last(tmp_path):
    (cell,) = opened(tmp_path, cells={"a": None})
    assert [step.start for step in cell.steps] == [(), (0,), (1,)]
    assert [step.folder for step in cell.steps] == ["one", "two", "eval_ask"]


def test_chains_side_by_side_meet_in_a_recipe_that_starts_from_both(tmp_path):
    recipes = [
        "see_1.yaml",
        "see_2.yaml",
        {"file": "hear_1.yaml", "start": []},
        "hear_2.yaml",
        {"file": "both.yaml", "start": ["see_2", "hear_2"]},
    ]
    (cell,) = opened(tmp_path, recipes=recipes, cells={"a": None})
    assert [step.start for step in cell.steps] == [(), (0,), (), (2,), (1, 3), (4,)]


def test_a_cell_may_have_recipes_and_evaluations_of_its_own(tmp_path):
    cells = {"a": None, "b": {"recipes": ["c/other.yaml"], "evaluate": ["c/asks.yaml"]}}
    _, other = opened(tmp_path, cells=cells)
    assert [step.file for step in other.steps] == ["c/other.yaml", "c/asks.yaml"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({}, "cells: there is none"),
        ({"cells": {"a": None}, "baseline": "b"}, "baseline: unknown cell 'b'"),
        ({"cells": {"a/b": None}}, "cells.a/b: folders are named after cells"),
        ({"cells": {"a": None}, "seeds": []}, "seeds: there is none"),
        ({"cells": {"a": None}, "seeds": [1, 1]}, "seeds: 1 is there twice"),
        ({"cells": {"a": None}, "seeds": [-1]}, "seeds: found -1, expected at least 0"),
        ({"cells": {"a": None}, "options": {"run.seed": 3}}, "options: run.seed is what the"),
        (
            {"cells": {"a": {"train_options": {"run": {"seed": 3, "log_freq": 1}}}}},
            "cells.a.train_options: run.seed is what the",
        ),
        (
            {"cells": {"a": None}, "options": {"run": {"output_dir": "x"}}},
            "options: run.output_dir is what the",
        ),
        (
            {"cells": {"a": None}, "own_options": {"two": {"model": {"ckpt": "x"}}}},
            "own_options.two: model.ckpt is the run of one",
        ),
        (
            {"cells": {"a": {"own_options": {"tow": {}}}}},
            "cells.a.own_options: unknown run file 'tow', did you mean 'two'?",
        ),
        (
            {"cells": {"a": {"recipes": ["a/x.yaml", "b/x.yaml"]}}},
            "cells.a.recipes: two files are called 'x'",
        ),
        (
            {"cells": {"a": None}, "evaluate": [{"file": "b/ask.yaml", "start": ["too"]}]},
            "ask.start: unknown recipe 'too', did you mean 'two'?",
        ),
        (
            {"grid": {"g": {"a": {}}}, "cells": {"a": None}},
            "grid: cell 'a' is there twice",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, content, text):
    assert text in refused(tmp_path, **content)


def test_what_a_run_starts_from_is_not_said_twice(tmp_path):
    options = {"own_options": {"two": {"model.ckpt": "other"}}, "cells": {"a": None}}
    text = refused(tmp_path, **options)
    assert "own_options.two: model.ckpt is the run of one, from which it starts" in text
    alone = [{"file": "a/one.yaml"}, {"file": "a/two.yaml", "start": []}]
    assert opened(tmp_path, recipes=alone, **options)[0].steps[1].start == ()


def test_the_seed_is_not_an_option(tmp_path):
    with pytest.raises(ConfigError, match="--options: run.seed is what .* use --seeds"):
        opened(tmp_path, {"run.seed": 3}, cells={"a": None})


def test_seeds_of_the_command_line_replace_those_of_the_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**TWO, "cells": {"a": None}, "seeds": [1]}))
    assert read_experiment(path, seeds=[7, 8]).seeds == (7, 8)
