from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.common.key_map import Excuse, FileTable, KeyMap

piece = st.text("abcdefghij_0123456789", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("pattern", "ours", "name", "expected"),
    [
        ("**", "vit.**", "blocks.0.norm1.weight", "vit.blocks.0.norm1.weight"),
        ("a.*.b.*", "x.*.y.*", "a.7.b.bias", "x.7.y.bias"),
        ("a.*.b", "x.*", "a.7.8.b", None),
        ("a.**.b", "x.**", "a.7.8.b", "x.7.8"),
        ("a.b", "x", "a_b", None),
        ("a+b.*", "x.*", "aab.c", None),
    ],
)
def test_a_star_stands_for_one_piece_and_two_for_any_text(pattern, ours, name, expected):
    assert KeyMap(renames=((pattern, ours),)).translate(name) == expected


def test_the_first_rename_that_matches_wins():
    key_map = KeyMap(renames=(("a.b", "special"), ("a.*", "other.*")))
    assert key_map.translate("a.b") == "special"
    assert key_map.translate("a.c") == "other.c"


@given(piece, piece, piece)
def test_inverting_leads_back(layer, kind, leaf):
    key_map = KeyMap(
        renames=(("bert.layer.*.self.*.**", "layers.*.attention.*.**"), ("q", "queries"))
    )
    name = f"bert.layer.{layer}.self.{kind}.{leaf}.weight"
    ours = key_map.translate(name)
    assert ours == f"layers.{layer}.attention.{kind}.{leaf}.weight"
    assert key_map.invert().translate(ours) == name


def test_prefixes_go_in_front_of_every_rule():
    key_map = KeyMap(
        renames=(("w.*", "x.*"),),
        drops=(Excuse("old", "gone"),),
        absent=(Excuse("new", "fresh"),),
        adapters={"x.pos": lambda tensor, shape: tensor},
    ).under(published="file.", ours="model.")
    assert key_map.translate("file.w.bias") == "model.x.bias"
    assert key_map.translate("w.bias") is None
    assert key_map.dropped_because("file.old") == "gone"
    assert key_map.dropped_because("old") is None
    assert key_map.absent[0].pattern == "model.new"
    assert list(key_map.adapters) == ["model.x.pos"]


def test_a_partial_file_must_fill_only_the_parts_it_begins():
    table = FileTable(
        KeyMap(renames=(("a.*", "one.*"), ("b.*", "two.*")), drops=(Excuse("b.old", "gone"),)),
        parts=("one.", "two."),
        may_be_partial=True,
    )
    assert table.parts_in(["a.weight", "b.old", "unknown"]) == ("one.",)
    assert table.parts_in(["a.weight", "b.weight"]) == ("one.", "two.")


def test_a_whole_file_must_fill_every_part():
    table = FileTable(KeyMap(), parts=("one.", "two."))
    assert table.parts_in([]) == ("one.", "two.")
