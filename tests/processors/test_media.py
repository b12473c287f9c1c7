import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_branches import AUDIO, SHAPE, VIDEO
from made_media import index_of, shade, tone
from PIL import Image

from video_llama.common.errors import MediaError
from video_llama.common.types import AudioSpec, BranchSpec, MediaItem
from video_llama.processors.media import (
    MediaCompat,
    MediaLimits,
    MediaLoader,
    content_hash,
    probe,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def loader():
    return MediaLoader({"video": VIDEO, "audio": AUDIO})


@pytest.fixture
def clip(make_clip):
    return make_clip("clip.mp4", [shade(i) for i in range(16)], sound=tone())


def test_a_video_becomes_normalised_pixels_with_seconds(loader, clip):
    item = loader.load(MediaItem("video", str(clip)), branch=VIDEO)
    assert item.pixels.shape == (8, 3, 32, 32)
    assert item.times_s == (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    shown = [index_of(255 * frame.numpy()) for frame in item.pixels]
    assert shown == [0, 2, 4, 6, 8, 10, 12, 14]


def test_the_sound_of_a_video_file_becomes_mel_pictures(loader, clip):
    item = loader.load(MediaItem("audio", str(clip)), branch="audio")
    assert item.mel.shape == (8, 1, 64, 25)
    assert item.times_s == tuple(i / 4 for i in range(8))
    assert item.pixels is None


def test_a_picture_is_a_clip_of_one_frame(loader, tmp_path):
    Image.fromarray(shade(9, height=30, width=50)).save(tmp_path / "a.png")
    item = loader.load(MediaItem("image", str(tmp_path / "a.png")), branch=VIDEO)
    assert item.pixels.shape == (1, 3, 32, 32)
    assert item.times_s == (0.0,)


def test_a_short_clip_has_fewer_steps(loader, make_clip):
    path = make_clip("a.mp4", [shade(i) for i in range(3)])
    assert loader.load(MediaItem("video", str(path)), branch=VIDEO).pixels.shape[0] == 3


def test_the_item_itself_is_not_changed(loader, clip):
    item = MediaItem("video", str(clip))
    loader.load(item, branch=VIDEO)
    assert item == MediaItem("video", str(clip))


def test_a_span_moves_the_seconds_of_both_kinds(loader, clip):
    video, audio = (
        loader.load(MediaItem(kind, str(clip), start_s=1.0, end_s=1.5), branch=kind)
        for kind in ("video", "audio")
    )
    assert video.times_s == (1.0, 1.125, 1.25, 1.375)
    assert audio.times_s == (1.0, 1.25)


def test_content_from_memory_gives_what_the_file_gives(loader, clip):
    from_file = loader.load(MediaItem("video", str(clip)), branch=VIDEO)
    from_bytes = loader.load(MediaItem("video", "shard/7"), branch=VIDEO, data=clip.read_bytes())
    assert torch.equal(from_file.pixels, from_bytes.pixels)
    assert from_file.content_hash == content_hash(clip)


def test_the_training_crop_is_a_function_of_the_seed(loader, make_clip):
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    item = MediaItem("video", str(make_clip("a.mp4", list(noise))))
    plain = loader.load(item, branch=VIDEO)
    first, again, other = (
        loader.load(item, branch=VIDEO, augment="random_crop", seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    assert first.content_hash == plain.content_hash


def test_a_crop_without_a_seed_is_refused(loader, clip):
    with pytest.raises(ValueError, match="needs a seed"):
        loader.load(MediaItem("video", str(clip)), branch=VIDEO, augment="random_crop")


def test_a_crop_that_would_pass_over_an_encoder_s_own_square_is_refused(loader, clip):
    padded = replace(VIDEO, spec=replace(VIDEO.spec, resize="pad_square"))
    with pytest.raises(ValueError, match="'video' is fed by resize 'pad_square'"):
        loader.load(MediaItem("video", str(clip)), branch=padded, augment="random_crop", seed=1)


def test_a_kind_the_branch_does_not_take_is_named(loader, clip):
    with pytest.raises(MediaError, match="branch 'audio' takes audio, this is video"):
        loader.load(MediaItem("video", str(clip)), branch=AUDIO)


def test_errors_from_memory_name_the_items_label(loader):
    with pytest.raises(MediaError, match="^shard/7: the file is empty"):
        loader.load(MediaItem("video", "shard/7"), branch=VIDEO, data=b"")


def test_limits_are_checked_before_decoding(clip):
    item = MediaItem("video", str(clip))
    for limits, reason in (
        (MediaLimits(max_duration_s=1.0), "longer than the 1 s that are allowed"),
        (MediaLimits(max_pixels=1000), "64 x 64 pixels, at most 1000"),
    ):
        with pytest.raises(MediaError, match=reason):
            MediaLoader({"video": VIDEO}, limits=limits).load(item, branch=VIDEO)
    roomy = MediaLoader({"video": VIDEO}, limits=MediaLimits(max_duration_s=3, max_pixels=5000))
    assert roomy.load(item, branch=VIDEO).pixels is not None


def test_the_released_quirks_are_all_on_together(make_clip):
    sound = tone() + 0.2
    path = make_clip("a.wav", sound=sound, codecs=("", "pcm_s16le"))
    overlapping = BranchSpec(
        name="audio",
        media=("audio",),
        spec=AudioSpec(4, 1.0, 16000, 64, 98, -4.268, 9.138, "clips"),
        frontier=SHAPE,
        slots=int,
    )
    item = MediaItem("audio", str(path))
    ours = MediaLoader({}).load(item, branch=overlapping)
    theirs = MediaLoader({}, compat=MediaCompat.released()).load(item, branch=overlapping)
    assert not torch.equal(ours.mel, theirs.mel)


def test_a_loader_can_be_sent_to_a_worker_process(loader, clip):
    sent = pickle.loads(pickle.dumps(loader))
    assert sent.load(MediaItem("video", str(clip)), branch="video").pixels is not None


class TestProbe:
    def test_it_tells_pictures_and_sound_of_a_clip(self, clip):
        info = probe(clip)
        assert (info.kind, info.has_video, info.has_audio) == ("video", True, True)
        assert (info.width, info.height, info.fps) == (64, 64, 8.0)
        assert info.duration_s == pytest.approx(2.0, abs=0.05)

    def test_a_turned_clip_has_the_size_a_viewer_sees(self, make_clip):
        path = make_clip("a.mp4", [shade(0, height=32, width=64)] * 2, rotation=90)
        assert (probe(path).width, probe(path).height) == (32, 64)

    def test_the_name_does_not_count(self, clip, tmp_path):
        wrong = tmp_path / "a.jpg"
        wrong.write_bytes(clip.read_bytes())
        assert probe(wrong).kind == "video"
        Image.fromarray(shade(1)).save(tmp_path / "b.png")
        assert probe((tmp_path / "b.png").rename(tmp_path / "b.mp4")).kind == "image"

    def test_a_moving_gif_is_video_and_a_still_one_a_picture(self, tmp_path):
        still, moving = tmp_path / "still.gif", tmp_path / "moving.gif"
        Image.fromarray(shade(1)).save(still)
        Image.fromarray(shade(1)).save(
            moving, save_all=True, append_images=[Image.fromarray(shade(9))], duration=100
        )
        assert (probe(still).kind, probe(moving).kind) == ("image", "video")

    def test_a_song_with_a_cover_is_sound(self, tmp_path, make_clip):
        Image.fromarray(shade(3)).save(tmp_path / "cover.png")
        path = add_cover(make_clip("a.mp3", sound=tone(), codecs=("", "libmp3lame")), tmp_path)
        assert (probe(path).kind, probe(path).has_video) == ("audio", False)

    def test_what_is_no_media_lists_what_is(self, tmp_path):
        (tmp_path / "a.txt").write_text("hello\n" * 99)
        with pytest.raises(MediaError, match="supported are video: mp4"):
            probe(tmp_path / "a.txt")


class TestContentHash:
    def test_it_is_of_the_bytes_and_not_of_the_name(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(b"same")
        assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b") == content_hash(b"same")

    def test_other_bytes_of_the_same_length_at_the_same_second_differ(self, tmp_path):
        path = tmp_path / "a"
        path.write_bytes(b"one")
        os.utime(path, ns=(10**18, 10**18))
        first = content_hash(path)
        path.write_bytes(b"two")
        os.utime(path, ns=(10**18, 10**18 + 1))
        assert content_hash(path) != first

    def test_the_span_is_part_of_it(self):
        hashes = {
            content_hash(b"x", start_s=s, end_s=e)
            for s, e in ((None, None), (0.0, 1.0), (1.0, None))
        }
        assert len(hashes) == 3

    def test_a_folder_is_its_pictures_in_order(self, tmp_path):
        for i in (1, 2):
            Image.fromarray(shade(i)).save(tmp_path / f"{i}.png")
        before = content_hash(tmp_path)
        (tmp_path / "1.png").rename(tmp_path / "3.png")
        assert content_hash(tmp_path) != before

    def test_a_missing_file_is_a_media_error(self, tmp_path):
        with pytest.raises(MediaError, match="cannot be read"):
            content_hash(tmp_path / "a")


def add_cover(song, folder):
    """Copy a song and attach a picture the way music shops do."""
    import av

    path = folder / "cover.mp3"
    with (
        av.open(str(song)) as sound,
        av.open(str(folder / "cover.png")) as picture,
        av.open(str(path), mode="w") as out,
    ):
        streams = [out.add_stream_from_template(s.streams[0]) for s in (sound, picture)]
        streams[1].disposition = av.stream.Disposition.attached_pic
        for source, stream in zip((sound, picture), streams, strict=True):
            for packet in source.demux(source.streams[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    return path


def test_a_cover_is_not_taken_for_a_clip(loader, tmp_path, make_clip):
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "cover.png")
    path = add_cover(make_clip("a.mp3", sound=tone(), codecs=("", "libmp3lame")), tmp_path)
    with pytest.raises(MediaError, match="no video stream"):
        loader.load(MediaItem("video", str(path)), branch=VIDEO)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("camera_720p.mp4", ("video", "audio")),
        ("web.webm", ("video", "audio")),
        ("animation.gif", ("video",)),
        ("picture.jpg", ("image",)),
        ("sound.wav", ("audio",)),
    ],
)
def test_the_example_media_load_for_every_branch_they_suit(loader, name, kinds):
    path = EXAMPLES / name
    assert probe(path).kind == kinds[0]
    for kind in kinds:
        item = loader.load(
            MediaItem(kind, str(path)), branch="audio" if kind == "audio" else "video"
        )
        tensor = item.mel if kind == "audio" else item.pixels
        assert tensor.isfinite().all()
        assert len(item.times_s) == len(tensor) == (1 if kind == "image" else 8)
