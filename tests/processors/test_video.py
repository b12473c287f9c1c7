import struct

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_media import GOLDENS, index_of, shade, tone
from PIL import Image
from safetensors.numpy import load_file

from video_llama.common.errors import MediaError
from video_llama.processors.video import FRAME_POLICIES, read_frames, sample_frames

POLICIES = sorted(FRAME_POLICIES)


def shades(count, **size):
    return [shade(i, **size) for i in range(count)]


def indices_of(clip):
    return [index_of(frame) for frame in clip.frames]


class TestSampleFrames:
    @pytest.mark.parametrize(
        ("policy", "indices"),
        [
            ("segment_start", [0, 2, 5, 7]),
            ("segment_middle", [0, 3, 5, 8]),
            ("mvbench", [1, 3, 5, 8]),
            ("linspace", [0, 3, 6, 9]),
        ],
    )
    def test_four_of_ten_frames_are_those_of_the_published_rule(self, policy, indices):
        assert sample_frames(10, num_frames=4, policy=policy).tolist() == indices

    @given(
        num_total=st.integers(1, 5000),
        num_frames=st.integers(1, 64),
        policy=st.sampled_from(POLICIES),
        seed=st.integers(0, 2**32),
    )
    def test_indices_are_ordered_in_range_and_of_the_promised_number(
        self, num_total, num_frames, policy, seed
    ):
        found = sample_frames(num_total, num_frames=num_frames, policy=policy, seed=seed)
        assert (np.diff(found) >= 0).all()
        assert 0 <= found[0] <= found[-1] < num_total
        if FRAME_POLICIES[policy].short_clip == "fewer frames":
            assert len(found) == min(num_frames, num_total)
            assert (np.diff(found) > 0).all()
        else:
            assert len(found) == num_frames

    def test_a_drawing_policy_is_a_function_of_its_seed(self):
        draws = [sample_frames(300, num_frames=8, policy="headtail", seed=s) for s in (1, 1, 2)]
        assert draws[0].tolist() == draws[1].tolist() != draws[2].tolist()

    def test_a_drawing_policy_without_a_seed_is_refused(self):
        with pytest.raises(ValueError, match="needs a seed"):
            sample_frames(300, num_frames=8, policy="headtail")

    def test_an_unknown_policy_lists_the_known_ones(self):
        with pytest.raises(ValueError, match="segment_start"):
            sample_frames(10, num_frames=4, policy="uniform")

    def test_a_clip_without_frames_is_a_media_error(self):
        with pytest.raises(MediaError, match="no frames"):
            sample_frames(0, num_frames=4, policy="linspace")


class TestReadFrames:
    def test_frames_and_seconds_are_those_of_the_chosen_indices(self, make_clip):
        path = make_clip("a.mp4", shades(16))
        clip = read_frames(path, num_frames=4, policy="segment_start")
        assert indices_of(clip) == [0, 4, 8, 12]
        assert clip.times_s == (0.0, 0.5, 1.0, 1.5)
        assert (clip.num_total, clip.fps, clip.duration_s) == (16, 8.0, 2.0)

    def test_native_frames_are_byte_equal_to_decords(self):
        golden = load_file(GOLDENS / "processors_picture.safetensors")["clip.native.frame0.u8"]
        clip = read_frames(GOLDENS / "clip.mp4", num_frames=1, policy="segment_start")
        np.testing.assert_array_equal(clip.frames[0], golden.transpose(1, 2, 0))

    def test_resizing_while_decoding_is_near_the_published_decoders(self):
        golden = load_file(GOLDENS / "processors_picture.safetensors")["clip.n8_hw56.u8"]
        clip = read_frames(
            GOLDENS / "clip.mp4", num_frames=8, policy="segment_start", size=(56, 56)
        )
        difference = np.abs(clip.frames.astype(int) - golden.transpose(1, 2, 3, 0))
        # The clip is noise, the worst case; one frame beside the right one differs by far more.
        assert difference.mean() < 3.0
        assert (
            np.abs(
                np.roll(clip.frames, 1, axis=0).astype(int)[1:] - golden.transpose(1, 2, 3, 0)[1:]
            ).mean()
            > 9.0
        )

    def test_content_in_memory_is_read_like_a_file(self, make_clip):
        path = make_clip("a.mp4", shades(16))
        from_file = read_frames(path, num_frames=4, policy="linspace")
        from_bytes = read_frames(path.read_bytes(), num_frames=4, policy="linspace")
        np.testing.assert_array_equal(from_file.frames, from_bytes.frames)

    def test_a_one_frame_clip_gives_one_frame(self, make_clip):
        clip = read_frames(make_clip("a.mp4", shades(1)), num_frames=8, policy="segment_start")
        assert clip.frames.shape == (1, 64, 64, 3)
        assert clip.times_s == (0.0,)

    def test_a_variable_frame_rate_keeps_its_seconds(self, make_clip):
        path = make_clip("a.mp4", shades(5), fps=10, ticks=[0, 1, 2, 10, 30])
        clip = read_frames(path, num_frames=5, policy="segment_start")
        assert clip.times_s == pytest.approx((0.0, 0.1, 0.2, 1.0, 3.0))
        assert indices_of(clip) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("name", ["a.mkv", "a.mov", "a.avi", "a.ts", "a.flv"])
    def test_every_container_counts_seconds_from_its_first_frame(self, make_clip, name):
        clip = read_frames(make_clip(name, shades(16)), num_frames=4, policy="segment_start")
        assert clip.times_s == pytest.approx((0.0, 0.5, 1.0, 1.5), abs=0.002)
        assert indices_of(clip) == [0, 4, 8, 12]

    def test_webm_with_vp9_is_read(self, make_clip):
        path = make_clip("a.webm", shades(8), codecs=("libvpx-vp9", "libopus"))
        clip = read_frames(path, num_frames=4, policy="segment_start")
        assert indices_of(clip) == [0, 2, 4, 6]

    def test_av1_is_read(self, make_clip):
        path = make_clip("a.mp4", shades(4), codecs=("libsvtav1", "aac"))
        assert indices_of(read_frames(path, num_frames=4, policy="linspace")) == [0, 1, 2, 3]

    def test_a_gif_is_a_video(self, tmp_path):
        pictures = [Image.fromarray(shade(i)) for i in (0, 4, 8)]
        pictures[0].save(
            tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100
        )
        clip = read_frames(tmp_path / "a.gif", num_frames=8, policy="segment_start")
        assert indices_of(clip) == [0, 4, 8]
        assert clip.times_s == pytest.approx((0.0, 0.1, 0.2))

    def test_a_fragmented_file_without_a_frame_count_is_counted(self, make_clip):
        options = {"movflags": "frag_keyframe+empty_moov"}
        path = make_clip("a.mp4", shades(16), gop=4, options=options)
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 0
        assert read_frames(path, num_frames=4, policy="segment_start").num_total == 16

    def test_a_broadcast_in_which_sound_sets_in_later_is_read_to_its_end(self, make_clip):
        silent = make_clip("a.ts", shades(16) * 6, gop=8).read_bytes()
        sounding = make_clip("b.ts", shades(8), sound=tone(duration_s=1.0)).read_bytes()
        clip = read_frames(silent + sounding, num_frames=104, policy="segment_start")
        assert indices_of(clip) == [*range(16)] * 6 + [*range(8)]

    def test_a_turned_phone_clip_comes_upright(self, make_clip):
        picture = np.zeros((32, 64, 3), dtype=np.uint8)
        picture[:, :32] = 200
        upright = read_frames(make_clip("a.mp4", [picture]), num_frames=1, policy="linspace")
        assert upright.frames[0, :, :24].mean() > 150
        for rotation, bright in ((90, np.s_[40:, :]), (-90, np.s_[:24, :]), (180, np.s_[:, 40:])):
            path = make_clip(f"{rotation}.mp4", [picture], rotation=rotation)
            frame = read_frames(path, num_frames=1, policy="linspace").frames[0]
            assert frame.shape == ((32, 64, 3) if rotation == 180 else (64, 32, 3))
            assert frame[bright].mean() > 150

    def test_rotation_follows_the_matrix_of_the_mp4_standard(self, make_clip):
        """ISO 14496-12: matrix (0, 1, -1, 0) turns a picture by 90 degrees clockwise."""
        picture = np.zeros((32, 64, 3), dtype=np.uint8)
        picture[:, :32] = 200
        path = make_clip("a.mp4", [picture])
        content = bytearray(path.read_bytes())
        matrix = content.index(b"tkhd") + 4 + 40
        one = 1 << 16
        content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
        frame = read_frames(bytes(content), num_frames=1, policy="linspace").frames[0]
        assert frame.shape == (64, 32, 3)
        assert frame[:24].mean() > 150

    @pytest.mark.parametrize("size", [(16, 16), (33, 47), (96, 96), (2, 130)])
    def test_every_picture_size_is_read(self, make_clip, size):
        height, width = size
        path = make_clip("a.mkv", shades(3, height=height, width=width), codecs=("ffv1", "aac"))
        clip = read_frames(path, num_frames=3, policy="linspace")
        assert clip.frames.shape == (3, height, width, 3)
        assert indices_of(clip) == [0, 1, 2]

    def test_a_longest_side_shrinks_and_never_enlarges(self, make_clip):
        path = make_clip("a.mp4", shades(1, height=48, width=128))
        assert read_frames(path, num_frames=1, policy="linspace", size=64).frames.shape[1:3] == (
            24,
            64,
        )
        assert read_frames(path, num_frames=1, policy="linspace", size=999).frames.shape[1:3] == (
            48,
            128,
        )

    def test_a_span_restricts_the_frames(self, make_clip):
        path = make_clip("a.mp4", shades(16))
        clip = read_frames(path, num_frames=2, policy="segment_start", start_s=0.5, end_s=1.0)
        assert clip.times_s == (0.5, 0.75)
        assert indices_of(clip) == [4, 6]

    def test_a_span_between_two_frames_shows_the_one_on_display(self, make_clip):
        path = make_clip("a.mp4", shades(16))
        clip = read_frames(path, num_frames=4, policy="segment_start", start_s=0.55, end_s=0.6)
        assert indices_of(clip) == [4]

    def test_a_span_behind_the_end_names_the_length(self, make_clip):
        with pytest.raises(MediaError, match=r"starts at 7 s, the clip is 2\.00 s long"):
            read_frames(make_clip("a.mp4", shades(16)), num_frames=1, policy="linspace", start_s=7)

    def test_a_long_clip_gives_the_same_frames_by_seeking(self, make_clip):
        pictures = [
            np.roll(
                np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (64, 1, 3)), i, axis=1
            )
            for i in range(300)
        ]
        sought = read_frames(make_clip("a.mp4", pictures, gop=12), num_frames=4, policy="linspace")
        assert sought.times_s == pytest.approx((0.0, 99 / 8, 199 / 8, 299 / 8))
        for frame, i in zip(sought.frames, (0, 99, 199, 299), strict=True):
            assert np.abs(frame.astype(int) - pictures[i]).mean() < 2.0

    def test_a_folder_of_pictures_is_a_clip_in_the_order_of_its_numbers(self, tmp_path):
        for i in (2, 10, 1):
            Image.fromarray(shade(i)).save(tmp_path / f"frame_{i}.png")
        clip = read_frames(tmp_path, num_frames=8, policy="segment_start")
        assert indices_of(clip) == [1, 2, 10]

    def test_a_picture_with_a_video_name_is_a_clip_of_one_frame(self, tmp_path):
        Image.fromarray(shade(7)).save(tmp_path / "a.jpg")
        path = (tmp_path / "a.jpg").rename(tmp_path / "a.mp4")
        assert indices_of(read_frames(path, num_frames=8, policy="segment_start")) == [7]


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty"),
            (b"once upon a time\n" * 40, "no media file"),
            (bytes(range(256)) * 8, "no media file"),
        ],
        ids=["zero bytes", "text", "random bytes"],
    )
    def test_no_media_is_named_in_a_file_and_in_memory(self, tmp_path, content, reason):
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(MediaError, match=reason) as error:
            read_frames(path, num_frames=8, policy="linspace")
        assert error.value.path == str(path)
        with pytest.raises(MediaError, match=reason):
            read_frames(content, num_frames=8, policy="linspace")

    def test_a_missing_file_is_said_to_be_missing(self, tmp_path):
        with pytest.raises(MediaError, match="no such file"):
            read_frames(tmp_path / "a.mp4", num_frames=8, policy="linspace")

    def test_a_folder_without_pictures_is_named(self, tmp_path):
        with pytest.raises(MediaError, match="folder without pictures"):
            read_frames(tmp_path, num_frames=8, policy="linspace")

    def test_sound_alone_has_no_video_stream(self, make_clip):
        with pytest.raises(MediaError, match="no video stream"):
            read_frames(make_clip("a.m4a", sound=tone()), num_frames=8, policy="linspace")

    def test_a_playlist_opens_no_other_file(self, make_clip, tmp_path):
        make_clip("a.ts", shades(4))
        playlist = tmp_path / "list.m3u8"
        playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
        with pytest.raises(MediaError, match="no media file"):
            read_frames(playlist, num_frames=1, policy="linspace")

    def test_a_file_cut_off_before_its_index_is_named(self, make_clip):
        content = make_clip("a.mp4", shades(16)).read_bytes()
        with pytest.raises(MediaError, match="cut off before its index"):
            read_frames(content[: len(content) // 2], num_frames=8, policy="linspace")

    def test_a_clip_cut_off_in_the_middle_gives_the_frames_it_has(self, make_clip):
        noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
        content = make_clip(
            "a.mp4", list(noise), gop=4, options={"movflags": "faststart"}
        ).read_bytes()
        clip = read_frames(content[: len(content) // 2], num_frames=8, policy="linspace")
        assert clip.frames.shape == (8, 64, 64, 3)
        assert 8 <= clip.num_total < 40
        assert clip.times_s[-1] < 4.0

    def test_flipped_bits_are_passed_over(self, make_clip):
        noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
        content = bytearray(make_clip("a.mkv", list(noise), gop=4).read_bytes())
        generator = np.random.default_rng(1)
        for at in generator.integers(2000, len(content), 40):
            content[at] ^= 0x55
        clip = read_frames(bytes(content), num_frames=8, policy="segment_start")
        assert clip.frames.shape == (8, 64, 64, 3)

    def test_a_title_in_an_old_encoding_does_not_matter(self, make_clip):
        content = make_clip("a.mkv", shades(4)).read_bytes()
        assert b"Lavf" in content
        latin = content.replace(b"Lavf", b"L\xe4vf")
        assert read_frames(latin, num_frames=4, policy="linspace").num_total == 4

    def test_a_media_error_survives_the_way_between_processes(self):
        import pickle

        error = pickle.loads(pickle.dumps(MediaError("no video stream", path="a.mp4")))
        assert (error.reason, error.path) == ("no video stream", "a.mp4")


class TestDecord:
    @pytest.fixture(autouse=True)
    def _decord(self):
        pytest.importorskip("decord", reason="decord2 is part of the extra 'train'")

    @pytest.mark.parametrize("width", [64, 96])
    def test_it_gives_the_frames_of_pyav_also_at_widths_it_cannot_do(self, make_clip, width):
        path = make_clip("a.mp4", shades(16, width=width))
        ours, theirs = (
            read_frames(path, num_frames=4, policy="mvbench", reader=reader)
            for reader in ("pyav", "decord")
        )
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        assert ours.times_s == pytest.approx(theirs.times_s)

    def test_what_it_cannot_read_names_the_reader_that_can(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"text" * 100)
        with pytest.raises(MediaError, match="reader 'pyav'"):
            read_frames(
                tmp_path / "a.mp4", num_frames=4, policy="linspace", reader="decord", size=(32, 40)
            )
