"""Against torchvision, Pillow and transformers, put together from the published description."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_branches import SHAPE
from made_media import index_of, shade, write_clip
from PIL import Image
from torchvision.transforms import functional as tv
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil, VideoLlavaVideoProcessor

from video_llama.common.errors import MediaError
from video_llama.common.types import BranchSpec, MediaItem, VideoSpec
from video_llama.processors import squares
from video_llama.processors.media import MediaLoader
from video_llama.processors.squares import square_pixels
from video_llama.processors.transforms import normalise, resize

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SHAPES = [(60, 80), (80, 60), (61, 100), (100, 61), (33, 200), (56, 56), (20, 31), (57, 131)]


def spec_of(resize, filter_, *, side=56, **more) -> VideoSpec:
    return VideoSpec(
        1, side, MEAN, STD, frame_policy="linspace", resize=resize, filter=filter_, **more
    )


def picture(shape, *, seed=0):
    """Smooth waves with noise on top, so that filters and offsets can be told apart."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]][..., None] / 9.0
    waves = 120 + 90 * np.sin(x + [0, 1, 2]) * np.cos(y + [2, 0, 1])
    return (waves + rng.integers(-20, 20, (*shape, 3))).clip(0, 255).astype(np.uint8)


def to_tensor(frame):
    return torch.from_numpy(frame).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_are_prepared_as_video_llava_does(shape):
    frame = picture(shape)
    tensor = tv.resize(to_tensor(frame), [56], tv.InterpolationMode.BICUBIC, antialias=False)
    expected = tv.normalize(tv.center_crop(tensor, [56, 56]), MEAN, STD)
    found = square_pixels(frame[None], spec_of("short_side_crop", "bicubic"))
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_padded_pictures_are_prepared_as_video_llava_does(shape):
    frame = picture(shape)
    side = max(shape)
    canvas = Image.new("RGB", (side, side), (122, 116, 104))
    canvas.paste(Image.fromarray(frame), ((side - shape[1]) // 2, (side - shape[0]) // 2))
    tensor = to_tensor(np.array(canvas))
    tensor = tv.resize(tensor, [56], tv.InterpolationMode.BICUBIC, antialias=False)
    expected = tv.normalize(tensor, MEAN, STD)
    found = square_pixels(frame[None], spec_of("pad_square", "bicubic"))
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_clips_are_prepared_as_video_llava_does(shape):
    frames = np.stack([picture(shape, seed=i) for i in range(3)])
    clip_CTHW = tv.normalize(torch.stack([to_tensor(f) for f in frames]), MEAN, STD).transpose(0, 1)
    height, width = shape
    size = (56, math.floor(width / height * 56))
    if width < height:
        size = (math.floor(height / width * 56), 56)
    scaled = torch.nn.functional.interpolate(clip_CTHW, size=size, mode="bilinear")
    top, left = round((size[0] - 56) / 2), round((size[1] - 56) / 2)
    expected = scaled[:, :, top : top + 56, left : left + 56].transpose(0, 1)
    found = square_pixels(frames, spec_of("short_side_crop", "bilinear"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_clip_pictures_are_prepared_as_transformers_does(shape):
    frame = picture(shape)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    expected = processor(Image.fromarray(frame), return_tensors="pt").pixel_values
    found = square_pixels(frame[None], spec_of("short_side_crop", "bicubic_smooth"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(60, 80), (57, 131)])
def test_siglip_pictures_are_prepared_as_transformers_does(shape):
    frame = picture(shape)
    half = (0.5, 0.5, 0.5)
    processor = SiglipImageProcessorPil(size={"height": 56, "width": 56})
    expected = processor(Image.fromarray(frame), return_tensors="pt").pixel_values
    found = square_pixels(frame[None], VideoSpec(1, 56, half, half))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_clips_in_the_form_of_transformers_differ_by_the_rounding_of_its_filter_alone():
    frames = np.stack([picture((120, 160), seed=i) for i in range(2)])
    processor = VideoLlavaVideoProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    expected = processor(list(frames), return_tensors="pt", do_sample_frames=False)
    found = square_pixels(frames, spec_of("short_side_crop", "bicubic_smooth"))
    step = 1 / 255 / min(STD)
    difference = (found - expected["pixel_values_videos"][0]).abs()
    assert difference.max() <= 1.01 * step
    other = square_pixels(frames, spec_of("short_side_crop", "bicubic"))
    assert (other - expected["pixel_values_videos"][0]).abs().max() > 10 * step


def test_the_default_is_what_was_done_before_there_was_a_choice():
    frame = picture((60, 80))[None]
    spec = VideoSpec(1, 56, MEAN, STD)
    assert torch.equal(square_pixels(frame, spec), normalise(resize(frame, image_size=56), spec))


def load(path, *, kind="video", num_frames=8, resize="short_side_crop", filter_="bilinear"):
    spec = VideoSpec(num_frames, 32, (0.0,) * 3, (1.0,) * 3, "linspace", resize, filter_)
    branch = BranchSpec("video", ("video", "image"), spec, SHAPE, int)
    return MediaLoader({"video": branch}).load(MediaItem(kind, str(path)), branch=branch)


def shown(item):
    return [index_of(255 * frame.numpy()) for frame in item.pixels]


@pytest.mark.parametrize(
    ("num_total", "expected"),
    [
        (16, [0, 2, 4, 6, 8, 10, 12, 15]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (5, [0, 0, 1, 1, 2, 2, 3, 4]),
        (1, [0] * 8),
    ],
)
def test_eight_frames_from_the_first_to_the_last_and_a_short_clip_repeats(
    make_clip, num_total, expected
):
    path = make_clip("a.mp4", [shade(i) for i in range(num_total)])
    assert shown(load(path)) == expected


def halves(*, upper, lower):
    """A wide picture with a bright upper half, and black ends that the crop cuts off."""
    frame = np.zeros((64, 128, 3), dtype=np.uint8)
    frame[:32, 32:96], frame[32:, 32:96] = upper, lower
    return frame


def test_the_ends_of_a_wide_clip_are_cut_off_and_nothing_is_squashed(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [halves(upper=240, lower=120)] * 3)
    pixels = load(path, num_frames=1).pixels[0]
    assert pixels[:, 4:12, 2:30].mean() == pytest.approx(240 / 255, abs=0.02)
    assert pixels[:, 20:28, 2:30].mean() == pytest.approx(120 / 255, abs=0.02)
    squashed = load(path, num_frames=1, resize="squash").pixels[0]
    assert squashed[:, :, :6].max() < 0.1


def test_a_rotated_clip_is_turned_upright_before_it_is_cut(tmp_path):
    # Stored lying on its side: shown a quarter turn on, the bright half is at the left or right.
    path = write_clip(tmp_path / "a.mp4", [halves(upper=240, lower=120)] * 3, rotation=90)
    pixels = load(path, num_frames=1).pixels[0]
    sides = sorted([float(pixels[:, 4:28, 2:12].mean()), float(pixels[:, 4:28, 20:30].mean())])
    assert sides == pytest.approx([120 / 255, 240 / 255], abs=0.02)
    assert pixels[:, 2:30, 4:12].std(dim=1).max() < 0.05


def test_bars_of_the_mean_colour_stand_beside_a_tall_picture(tmp_path):
    Image.fromarray(np.full((64, 16, 3), 255, dtype=np.uint8)).save(tmp_path / "a.png")
    pixels = load(tmp_path / "a.png", kind="image", resize="pad_square", filter_="bicubic").pixels[
        0
    ]
    assert (pixels[:, :, :10] == 0).all()
    assert (pixels[:, :, 14:18] == 1).all()
    assert (pixels[:, :, 22:] == 0).all()


@pytest.mark.parametrize("resize", ["short_side_crop", "pad_square"])
def test_a_strip_is_refused_before_it_becomes_millions_of_pixels(tmp_path, resize):
    Image.fromarray(np.zeros((3, 301, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"301 x 3 pixels, a strip; .* 100 times at most"):
        load(tmp_path / "a.png", kind="image", resize=resize)
    assert load(tmp_path / "a.png", kind="image", resize="squash").pixels.shape == (1, 3, 32, 32)


def test_a_very_large_picture_is_made_smaller_first(monkeypatch):
    frame = picture((90, 130))[None]
    monkeypatch.setattr(squares, "MAX_SIDE", 65)
    smaller = np.asarray(Image.fromarray(frame[0]).resize((65, 45), Image.Resampling.BICUBIC))
    for way in ("short_side_crop", "pad_square"):
        spec = spec_of(way, "bilinear")
        assert torch.equal(square_pixels(frame, spec), square_pixels(smaller[None], spec))
