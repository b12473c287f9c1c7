"""What is wrong with a YAML file or an override is said with its line and its key."""

from __future__ import annotations

import pytest

from video_llama.common.errors import ConfigError
from video_llama.common.yaml_files import assignments, parse_options, read_yaml


@pytest.fixture
def complaint(tmp_path):
    """Return what reading a text as a file says."""

    def read(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        with pytest.raises(ConfigError) as caught:
            read_yaml(path)
        return str(caught.value)

    return read


def test_interpolations_and_exponents_are_read_as_they_are_meant(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("a: 1e-4\nb: ${a}\nc: null\n")
    assert read_yaml(path) == {"a": 1e-4, "b": "${a}", "c": None}


def test_both_lines_of_every_duplicate_key_are_named(complaint):
    said = complaint("a: 1\nb:\n  c: 1\n  c: 2\nd: [{e: 1, e: 2}]\na: 3\n")
    assert "duplicate key 'c' in lines 3 and 4" in said
    assert "duplicate key 'e' in lines 5 and 5" in said
    assert "duplicate key 'a' in lines 1 and 6" in said


def test_equal_keys_in_different_places_are_no_duplicates(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("a: {x: 1}\nb: {x: 2}\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 2}}


def test_every_line_that_offers_a_choice_is_named(complaint):
    said = complaint('m: 1\na: "x" or "y"  # comment\n# b: "x" or "y"\nc: \'x\' or  \'/y/z.pth\'\n')
    assert "run.yaml:2: 2 problems" in said
    assert 'line 2: not valid YAML: the line offers a choice ("a" or "b"): keep one' in said
    assert "line 4: " in said
    assert "line 3" not in said


def test_children_below_a_value_are_explained(complaint):
    said = complaint("data_type: images\n  build_info:\n    storage: x\n")
    assert "run.yaml:2: not valid YAML" in said
    assert "indent both alike" in said


def test_any_other_mistake_has_its_line(complaint):
    assert "run.yaml:3: not valid YAML" in complaint("a: 1\nb: [1, 2\n")


def test_a_file_without_sections_is_refused(complaint):
    assert "expected sections" in complaint("- 1\n- 2\n")


def test_a_file_that_is_no_text_is_refused(complaint):
    assert "not UTF-8 at byte 3" in complaint(b"a: \xff\n")


@pytest.mark.parametrize(
    "words",
    [
        ["run.seed=1", "model.ckpt=a=b.pth", "run.init_lr=3e-5", "x.y=[1,2]", "z=null"],
        [
            "run.seed",
            "1",
            "model.ckpt",
            "a=b.pth",
            "run.init_lr",
            "3e-5",
            "x.y",
            "[1,2]",
            "z",
            "null",
        ],
    ],
)
def test_both_published_styles_of_overrides_say_the_same(words):
    assert parse_options(words) == [
        ("run.seed", 1),
        ("model.ckpt", "a=b.pth"),
        ("run.init_lr", 3e-5),
        ("x.y", [1, 2]),
        ("z", None),
    ]


def test_either_style_can_be_written_as_assignments():
    assert assignments(["a", "1", "b", "x y"]) == assignments(["a=1", "b=x y"]) == ["a=1", "b=x y"]
    assert assignments([]) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run.seed", "1", "model.ckpt"], "--options model.ckpt: no value follows"),
        (["run.seed", "1", "model.ckpt=x", "2"], "--options model.ckpt=x: a word with '='"),
        (["run.seed=1", "model.ckpt"], "--options model.ckpt: expected dotted.key=value"),
        (["run.seed"], "--options run.seed: expected dotted.key=value"),
        (["x={a: 1"], "--options x: cannot read '{a: 1'"),
    ],
)
def test_an_override_that_cannot_be_read_is_named(words, said):
    with pytest.raises(ConfigError) as caught:
        parse_options(words)
    assert said in str(caught.value)
