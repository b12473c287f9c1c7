"""The processors with LAVIS's names give what the published ones gave."""

import numpy as np
import pytest
import torch
from made_media import GOLDENS
from PIL import Image
from safetensors.torch import load_file

from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.processors.pictures import read_picture

PICTURE = load_file(GOLDENS / "processors_picture.safetensors")


def processor(name, **keys):
    return registry.get_processor_class(name).from_config({"name": name, **keys})


def test_an_evaluation_picture_is_the_published_one():
    found = processor("blip2_image_eval", image_size=56)(GOLDENS / "image.png")
    torch.testing.assert_close(found, PICTURE["image.eval56"], atol=1e-6, rtol=0)


def test_a_training_picture_is_the_published_one():
    picture = read_picture(GOLDENS / "image.png")[None]
    found = processor("blip2_image_train", image_size=56).transform(picture, seed=0)
    torch.testing.assert_close(found[0], PICTURE["image.train56.seed0"], atol=1e-6, rtol=0)


def test_a_clip_comes_out_channels_first(sounding_clip):
    pixels = processor("alpro_video_eval", image_size=32, n_frms=4)(sounding_clip)
    assert pixels.shape == (3, 4, 32, 32)
    # Frame i of the clip is grey of value 20 * i; 4 of 8 frames at even distances are 0, 2, 4, 6.
    grey = pixels[0].mean(dim=(1, 2)) * 0.26862954 + 0.48145466
    torch.testing.assert_close(grey * 255, torch.tensor([0.0, 40, 80, 120]), atol=6, rtol=0)


def test_training_clips_differ_from_call_to_call_and_repeat_with_the_seed(sounding_clip):
    first, again = (processor("alpro_video_train", image_size=16, n_frms=4) for _ in range(2))
    draws = [first(sounding_clip) for _ in range(3)]
    assert not all(torch.equal(draws[0], draw) for draw in draws[1:])
    assert all(torch.equal(draw, again(sounding_clip)) for draw in draws)


@pytest.mark.parametrize("name", ["blip2_image_train", "blip2_image_eval"])
def test_a_picture_may_be_a_file_or_an_open_image(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with Image.open(tmp_path / "noise.png") as opened:
        of_image = processor(name, image_size=16)(opened)
    of_file = processor(name, image_size=16)(tmp_path / "noise.png")
    assert of_image.shape == (3, 16, 16)
    assert torch.equal(of_image, of_file)


def test_the_published_defaults_are_kept():
    config = processor("alpro_video_train").config
    # CLIP's constants, Radford et al. 2021.
    assert config.mean == (0.48145466, 0.4578275, 0.40821073)
    assert config.std == (0.26862954, 0.26130258, 0.27577711)


def test_another_crop_than_the_published_one_is_refused():
    with pytest.raises(ConfigError, match="min_scale"):
        processor("blip2_image_train", min_scale=0.2)


def test_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'image_size'"):
        processor("blip2_image_eval", image_sise=224)


def test_a_caption_is_cleaned_and_gets_its_prompt():
    clean = processor("blip_caption", prompt="a photo of ", max_words=3)
    assert clean('The "red" Bus, at: night!') == "a photo of the red bus,"


def test_a_clip_can_be_prepared_for_other_encoders(sounding_clip):
    keys = {"frame_policy": "linspace", "resize": "short_side_crop", "filter": "bilinear"}
    name = "alpro_video_eval"
    pixels = processor(name, image_size=16, n_frms=4, mean=[0.0] * 3, std=[1.0] * 3, **keys)(
        sounding_clip
    )
    # Frame i of the clip is grey of value 20 * i; first to last of 8, evenly, are 0, 2, 4 and 7.
    torch.testing.assert_close(
        pixels[0].mean(dim=(1, 2)) * 255, torch.tensor([0.0, 40, 80, 140]), atol=6, rtol=0
    )
