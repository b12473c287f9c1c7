"""Media that are rare but right: every one is read for what it shows and sounds like."""

import struct

import numpy as np
import pytest
from made_branches import AUDIO, VIDEO
from made_media import index_of, shade, tone
from PIL import Image

from video_llama.common.errors import MediaError
from video_llama.common.types import MediaItem
from video_llama.processors.audio import read_audio
from video_llama.processors.media import MediaLimits, MediaLoader, probe
from video_llama.processors.video import read_frames

SHADES = [shade(i) for i in range(6)]


def shown(source, **options):
    """Return the indices of the shades that are seen, and their seconds."""
    clip = read_frames(source, num_frames=20, policy="segment_start", **options)
    return [index_of(frame) for frame in clip.frames], clip.times_s


def eighths(count):
    return pytest.approx([i / 8 for i in range(count)], abs=0.002)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx265"),
        ("a.webm", "libvpx"),
        ("a.mkv", "libsvtav1"),
        ("a.mpg", "mpeg2video"),
        ("a.wmv", "wmv2"),
        ("a.flv", "flv1"),
        ("a.avi", "rawvideo"),
        ("a.m4v", "libx264"),
    ],
)
def test_other_codecs_show_their_frames_at_their_seconds(make_clip, name, codec):
    indices, times_s = shown(make_clip(name, SHADES, codecs=(codec, "aac")))
    assert (indices, times_s) == ([0, 1, 2, 3, 4, 5], eighths(6))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 3)])
def test_a_clip_of_few_pixels_fills_the_square(make_clip, size):
    pictures = [shade(i, height=size[0], width=size[1]) for i in range(3)]
    path = make_clip("a.mkv", pictures, codecs=("ffv1", "aac"))
    assert shown(path)[0] == [0, 1, 2]
    item = MediaLoader({"video": VIDEO}).load(MediaItem("video", str(path)), branch="video")
    assert [index_of(255 * frame.numpy()) for frame in item.pixels] == [0, 1, 2]


def test_a_picture_of_one_pixel_fills_the_square(tmp_path):
    Image.fromarray(shade(5, height=1, width=1)).save(tmp_path / "a.png")
    item = MediaItem("image", str(tmp_path / "a.png"))
    pixels = MediaLoader({"video": VIDEO}).load(item, branch="video").pixels
    assert pixels.shape == (1, 3, 32, 32)
    assert index_of(255 * pixels.numpy()) == 5


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif"])
def test_an_animation_plays_at_its_own_pace(tmp_path, name):
    pictures = [Image.fromarray(picture) for picture in SHADES[:4]]
    pictures[0].save(
        tmp_path / name,
        save_all=True,
        append_images=pictures[1:],
        duration=[100, 300, 200, 100],
        lossless=True,
    )
    content = (tmp_path / name).read_bytes()
    indices, times_s = shown(content)
    assert (indices, times_s) == ([0, 1, 2, 3], pytest.approx((0.0, 0.1, 0.4, 0.6)))
    assert shown(content, start_s=0.05, end_s=0.5, size=(20, 30))[0] == [1, 2]
    info = probe(content)
    assert (info.kind, info.width, info.height) == ("video", 64, 64)


def test_a_damaged_animation_plays_as_far_as_it_goes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(picture) for picture in noise]
    path = tmp_path / "a.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    content = bytearray(path.read_bytes())
    fourth = -1
    for _ in range(4):
        fourth = content.index(b"VP8L", fourth + 1)
    content[fourth + 16 : fourth + 32] = b"\xff" * 16
    clip = read_frames(bytes(content), num_frames=6, policy="segment_start")
    np.testing.assert_array_equal(clip.frames, noise[:3])
    assert clip.num_damaged == 1


@pytest.mark.parametrize("name", ["a.ts", "a.h264"])
def test_a_size_that_changes_on_the_way_is_brought_to_the_first(make_clip, name):
    large = make_clip(f"1{name}", SHADES, gop=2).read_bytes()
    small = [shade(i, height=32, width=96) for i in range(6, 12)]
    clip = read_frames(
        large + make_clip(f"2{name}", small, gop=2).read_bytes(),
        num_frames=12,
        policy="segment_start",
    )
    assert clip.frames.shape == (12, 64, 64, 3)
    assert [index_of(frame) for frame in clip.frames] == list(range(12))


class TestClaims:
    """What a header says and the stream does not keep."""

    @pytest.fixture
    def endless(self, make_clip):
        """Six frames and 0.75 s of sound that call themselves days long."""
        content = bytearray(make_clip("a.mp4", SHADES, sound=tone(duration_s=0.75)).read_bytes())
        for box, length_at in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
            at = content.find(box)
            while at > 0:
                content[at + length_at : at + length_at + 4] = struct.pack(">I", 0x7FFFFFFF)
                at = content.find(box, at + 1)
        return bytes(content)

    def test_a_huge_duration_changes_neither_pictures_nor_sound(self, endless):
        assert shown(endless) == ([0, 1, 2, 3, 4, 5], eighths(6))
        assert len(read_audio(endless, sample_rate_hz=16000)) == pytest.approx(12000, abs=1024)

    def test_a_jump_of_the_clock_by_days_is_no_silence(self, make_clip):
        path = make_clip("a.mkv", [shade(0)] * 8, sound=tone(), sound_pts=16000 * 86400 * 3)
        assert len(read_audio(path, sample_rate_hz=16000)) == pytest.approx(32000, abs=1024)

    def test_a_length_beyond_the_limit_is_refused(self, make_clip):
        path = make_clip("a.mp4", [shade(i % 20) for i in range(40)])
        loader = MediaLoader({"video": VIDEO}, limits=MediaLimits(max_duration_s=4.0))
        with pytest.raises(MediaError, match="longer than the 4 s that are allowed"):
            loader.load(MediaItem("video", str(path)), branch="video")

    def test_frames_before_the_beginning_of_an_edit_list_are_not_shown(self, make_clip):
        path = make_clip("a.mp4", SHADES, options={"output_ts_offset": "-0.25"})
        assert shown(path) == ([2, 3, 4, 5], eighths(4))


class TestSound:
    @pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
    @pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
    def test_a_wav_of_any_rate_and_depth_keeps_its_tone(self, tmp_path, rate_hz, subtype):
        import soundfile

        samples = tone(rate_hz=rate_hz, duration_s=0.5)
        soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype=subtype)
        waveform = read_audio(tmp_path / "a.wav", sample_rate_hz=16000).numpy()
        assert len(waveform) == 8000
        # The filter of the resampler rings at both ends.
        np.testing.assert_allclose(waveform[400:-400], tone(duration_s=0.5)[400:-400], atol=0.015)

    @pytest.mark.parametrize(("name", "subtype"), [("a.flac", "PCM_24"), ("a.ogg", "VORBIS")])
    def test_five_speakers_and_a_woofer_are_mixed(self, tmp_path, name, subtype):
        import soundfile

        channels = np.zeros((16000, 6), dtype=np.float32)
        channels[:, 2] = tone(duration_s=1.0)
        soundfile.write(tmp_path / name, channels, 16000, subtype=subtype)
        waveform = read_audio(tmp_path / name, sample_rate_hz=16000).numpy()
        np.testing.assert_allclose(waveform, tone(duration_s=1.0) / 6, atol=0.01)


class TestNoMedia:
    @pytest.mark.parametrize("kind", ["video", "audio"])
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda path: None, "no such file"),
            (lambda path: path.write_bytes(b""), r"the file is empty \(0 bytes\)"),
            (lambda path: path.write_text("once upon a time\n" * 40), "no media file"),
            (lambda path: path.mkdir(), "folder"),
        ],
        ids=["missing", "empty", "text", "folder"],
    )
    def test_the_file_and_the_cause_are_named(self, tmp_path, kind, make, reason):
        path = tmp_path / "a.mp4"
        make(path)
        loader = MediaLoader({"video": VIDEO, "audio": AUDIO})
        with pytest.raises(MediaError, match=f"a.mp4: .*{reason}"):
            loader.load(MediaItem(kind, str(path)), branch=kind)

    @pytest.mark.parametrize("kind", ["video", "audio", "image"])
    def test_a_name_no_disk_takes_is_a_fault_of_the_item(self, kind):
        loader = MediaLoader({"video": VIDEO, "audio": AUDIO})
        branch = "audio" if kind == "audio" else "video"
        with pytest.raises(MediaError, match=r"cannot be read \(File name too long\)"):
            loader.load(MediaItem(kind, "x" * 5000), branch=branch)

    def test_a_file_that_may_not_be_read_says_so(self, tmp_path, monkeypatch):
        path = tmp_path / "a.mp4"
        path.write_bytes(b"content")

        def refuse(self):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(type(path), "read_bytes", refuse)
        with pytest.raises(MediaError, match=r"a\.mp4: cannot be read \(Permission denied\)"):
            read_audio(path, sample_rate_hz=16000)
