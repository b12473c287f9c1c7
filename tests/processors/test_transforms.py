import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_media import GOLDENS
from safetensors.torch import load_file
from torchvision.transforms import RandomResizedCrop

from video_llama.common.types import VideoSpec
from video_llama.processors.transforms import crop_box, normalise, random_resized_crop, resize

SPEC = VideoSpec(
    num_frames=8,
    image_size=56,
    # CLIP's constants, as published with the image encoder.
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
VIDEO = load_file(GOLDENS / "processors_video.safetensors")


def frames_of(name):
    """uint8[T, H, W, 3] from the published channel-first layout."""
    return VIDEO[f"video.{name}_u8"].permute(1, 2, 3, 0).numpy()


@settings(deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 2**31))
def test_a_box_is_the_one_torchvision_draws(height, width, seed):
    picture = torch.zeros(3, 1, 1).expand(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = RandomResizedCrop.get_params(picture, scale=[0.5, 1.0], ratio=[3 / 4, 4 / 3])
    box = crop_box(height, width=width, seed=seed)
    assert (box.top, box.left, box.height, box.width) == expected


def test_clamping_changes_no_pixel_by_more_than_the_overshoot():
    crop = random_resized_crop(frames_of("noise"), image_size=56, seed=0)
    wrapped = random_resized_crop(frames_of("noise"), image_size=56, seed=0, overshoot="wrap")
    inside = np.abs(crop.astype(int) - wrapped) <= 1
    assert set(np.unique(crop[~inside])) <= {0, 255}
    assert 0.001 < (~inside).mean() < 0.05


def test_a_flat_picture_stays_flat():
    flat = np.full((2, 30, 40, 3), 200, dtype=np.uint8)
    assert (random_resized_crop(flat, image_size=16, seed=3) == 200).all()
    assert (resize(flat, image_size=16) == 200).all()


def test_all_frames_of_a_clip_get_the_same_box():
    frame = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    crop = random_resized_crop(np.stack([frame] * 3), image_size=24, seed=5)
    np.testing.assert_array_equal(crop[0], crop[2])


def test_the_global_generator_is_neither_used_nor_moved():
    frames = frames_of("noise")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = random_resized_crop(frames, image_size=24, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, random_resized_crop(frames, image_size=24, seed=5))


@given(height=st.integers(1, 500), width=st.integers(1, 500), seed=st.integers(0, 2**63 - 1))
def test_a_box_lies_inside_the_picture(height, width, seed):
    box = crop_box(height, width=width, seed=seed)
    assert box.height >= 1
    assert box.width >= 1
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width


def test_normalising_is_the_formula_by_hand():
    spec = VideoSpec(num_frames=1, image_size=1, mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.4))
    pixel = np.array([255, 51, 0], dtype=np.uint8).reshape(1, 1, 1, 3)
    torch.testing.assert_close(normalise(pixel, spec).flatten(), torch.tensor([1.0, 0.2, -0.5]))
