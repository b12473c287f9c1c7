"""Branches that see 8 small frames and hear 8 quarters of a second, as the toy world's do."""

from video_llama.common.types import AudioSpec, BranchSpec, Shape, VideoSpec

SHAPE = Shape(num_steps=8, num_tokens=4, width=16)
VIDEO = BranchSpec(
    name="video",
    media=("video", "image"),
    spec=VideoSpec(num_frames=8, image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    frontier=SHAPE,
    slots=int,
)
AUDIO = BranchSpec(
    name="audio",
    media=("audio",),
    spec=AudioSpec(
        num_clips=8,
        clip_s=0.25,
        sample_rate_hz=16000,
        num_mel_bins=64,
        num_mel_frames=25,
        mean=-4.268,
        std=9.138,
        clip_policy="consecutive",
    ),
    frontier=SHAPE,
    slots=int,
)
