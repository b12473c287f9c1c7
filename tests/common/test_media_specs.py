from __future__ import annotations

import dataclasses

import pytest

from video_llama.common.media_specs import LATER_FIELDS, AudioSpec, VideoSpec, spec_identity

FIRST_FIELDS = {
    "num_frames": 8,
    "image_size": 224,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "frame_policy": "segment_start",
}


def test_what_was_cached_before_a_field_was_added_is_still_found():
    assert list(spec_identity(VideoSpec(**FIRST_FIELDS)).items()) == list(FIRST_FIELDS.items())


@pytest.mark.parametrize("change", [{"resize": "pad_square"}, {"filter": "bilinear"}])
def test_a_later_field_that_changes_the_input_changes_the_identity(change):
    assert spec_identity(VideoSpec(**FIRST_FIELDS, **change)) == FIRST_FIELDS | change


def test_a_later_field_has_the_value_that_stood_in_its_place():
    fields = [*dataclasses.fields(VideoSpec), *dataclasses.fields(AudioSpec)]
    defaults = {field.name: field.default for field in fields if field.name in LATER_FIELDS}
    assert defaults == LATER_FIELDS


def test_what_was_heard_before_there_were_recipes_is_still_found():
    sound = AudioSpec(8, 2.0, 16000, 128, 204, -4.0, 9.0)
    assert "recipe" not in spec_identity(sound)
    assert spec_identity(dataclasses.replace(sound, recipe="clap"))["recipe"] == "clap"
