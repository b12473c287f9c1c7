"""What a person hands over is read for what it is, as asked for, or refused with a reason."""

import io
import struct
import zipfile
import zlib
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from made_branches import AUDIO, VIDEO
from made_media import index_of, shade, silence, tone, write_clip
from PIL import Image

from video_llama.common.errors import ConfigError, MediaError
from video_llama.processors import media_file
from video_llama.processors.limits import MediaLimits
from video_llama.processors.media import MediaLoader, Request
from video_llama.processors.uploads import MAX_FRAMES, UploadReader, UploadRequest

PICTURES = [shade(i) for i in range(16)]
READER = UploadReader({"video": VIDEO, "audio": AUDIO})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    write_clip(folder / "clip.mp4", PICTURES, sound=tone())
    write_clip(folder / "silent.mp4", PICTURES)
    write_clip(folder / "sound.wav", sound=tone(), codecs=("", "pcm_s16le"))
    frames = [Image.fromarray(picture) for picture in PICTURES]
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=120)
    frames[3].save(folder / "still.png")
    return folder


def read(path, *, reader=READER, **wanted):
    return reader.read(UploadRequest(str(path), **wanted))


def refused(path, *, reader=READER, **wanted):
    with pytest.raises(MediaError) as caught:
        read(path, reader=reader, **wanted)
    assert caught.value.path == str(path)
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("clip.mp4", ["video", "audio"]),
        ("silent.mp4", ["video"]),
        ("sound.wav", ["audio"]),
        ("moving.gif", ["video"]),
        ("moving.webp", ["video"]),
        ("still.png", ["image"]),
    ],
)
def test_all_that_a_file_has_for_the_model_is_read_whatever_its_name(folder, tmp_path, name, kinds):
    upload = read(folder / name)
    assert [item.kind for item in upload.items] == kinds
    assert [spec.name for spec in upload.specs] == ["video" if k != "audio" else k for k in kinds]
    assert upload.notes == ()
    nameless = tmp_path / "upload.txt"
    nameless.write_bytes((folder / name).read_bytes())
    from_memory = READER.read(UploadRequest("label", data=nameless.read_bytes()))
    for other in (read(nameless), from_memory):
        assert [item.content_hash for item in other.items] == [
            item.content_hash for item in upload.items
        ]
    assert {item.path for item in from_memory.items} == {"label"}


def test_what_comes_out_is_what_the_loader_makes_of_the_file(folder):
    upload = read(folder / "clip.mp4", start_s=0.5, end_s=1.5)
    loader = MediaLoader(READER.specs)
    for item, spec in zip(upload.items, upload.specs, strict=True):
        bare = replace(item, pixels=None, mel=None, times_s=(), content_hash=None)
        (loaded,) = loader.load_all([Request(bare, spec)])
        assert (loaded.times_s, loaded.content_hash) == (item.times_s, item.content_hash)
        for one, other in ((loaded.pixels, item.pixels), (loaded.mel, item.mel)):
            assert one is other is None or torch.equal(one, other)


def test_a_file_is_opened_once_for_pictures_and_sound(folder, monkeypatch):
    opened = []
    really = media_file.open_container
    monkeypatch.setattr(
        media_file, "open_container", lambda *a, **k: opened.append(1) or really(*a, **k)
    )
    limits = MediaLimits(max_duration_s=10, max_pixels=10**6, max_bytes=10**6)
    read(folder / "clip.mp4", reader=UploadReader(READER.specs, limits=limits))
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("wanted", "times_s"),
    [
        ({"fps": 4.0}, [i / 4 for i in range(8)]),
        ({"fps": 0.01}, [0.0]),
        ({"fps": 2.0, "start_s": 0.5, "end_s": 1.5}, [0.5, 1.0]),
        ({"frames": 4}, [0.0, 0.5, 1.0, 1.5]),
        ({"frames": 2, "start_s": 1.0}, [1.0, 1.5]),
        ({"frames": 20}, [i / 8 for i in range(16)]),
    ],
)
def test_so_many_frames_are_taken_as_were_asked_for(folder, wanted, times_s):
    item, *_ = read(folder / "clip.mp4", **wanted).items
    assert item.times_s == pytest.approx(times_s)


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp"])
def test_an_animation_is_as_long_as_its_pictures_are_shown(folder, name):
    upload = read(folder / name, fps=4.0)
    assert upload.info.duration_s == pytest.approx(16 * 0.12)
    assert upload.items[0].times_s == pytest.approx([0.12 * i for i in range(0, 16, 2)])


def test_the_spec_says_how_many_frames_were_wanted_and_the_identity_differs(folder):
    plain, four = read(folder / "clip.mp4"), read(folder / "clip.mp4", frames=4)
    assert [spec.spec.num_steps for spec in plain.specs] == [8, 8]
    assert [spec.spec.num_steps for spec in four.specs] == [4, 8]
    assert plain.items[0].content_hash != four.items[0].content_hash
    assert plain.items[1].content_hash == four.items[1].content_hash
    assert READER.specs["video"] == VIDEO


def test_too_many_frames_are_cut_and_told(folder):
    upload = read(folder / "clip.mp4", fps=100.0)
    assert upload.notes == (f"200 frames were asked for, {MAX_FRAMES} are the most.",)
    assert upload.specs[0].spec.num_frames == MAX_FRAMES
    assert len(upload.items[0].times_s) == 16


def test_frames_and_fps_are_not_both_for_a_clip(folder):
    assert "leave one of them out" in refused(folder / "clip.mp4", frames=4, fps=2.0)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"frames": 0}, "frames: 0, expected a whole number of at least 1"),
        ({"frames": 2.5}, "frames: 2.5, expected a whole number"),
        ({"start_s": "two"}, "start_s: two, expected a number from 0 to 1e\\+09"),
        ({"end_s": 10**400}, "end_s: 1000"),
        ({"fps": 0.0}, "fps: 0, expected a number above 0"),
        ({"fps": float("nan")}, "fps: nan"),
        ({"start_s": -1.0}, "start_s: -1.0"),
        ({"start_s": 2.0, "end_s": 1.0}, "end_s: 1, expected more than start_s"),
        ({"end_s": float("inf")}, "end_s: inf"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(wanted, reason):
    with pytest.raises(ConfigError, match=reason):
        UploadRequest("clip.mp4", **wanted)


def test_no_path_is_no_folder():
    with pytest.raises(ConfigError, match="source: empty, expected the path"):
        UploadRequest("")


def test_a_span_behind_the_end_is_refused(folder):
    assert "the clip is 2.00 s long" in refused(folder / "clip.mp4", start_s=7.0)


# --- what is left out, and told


def test_a_model_that_cannot_hear_leaves_the_sound_out_and_says_so(folder):
    deaf = UploadReader({"video": VIDEO})
    upload = read(folder / "clip.mp4", reader=deaf)
    assert [item.kind for item in upload.items] == ["video"]
    assert upload.notes == ("Left out: its sound, the model has no branch for audio.",)
    reason = refused(folder / "sound.wav", reader=deaf)
    assert reason == "this is audio; the model takes image, video"


def test_a_model_that_cannot_see_hears_the_sound_of_a_clip(folder):
    blind = UploadReader({"audio": AUDIO})
    upload = read(folder / "clip.mp4", reader=blind)
    assert [item.kind for item in upload.items] == ["audio"]
    assert upload.notes == ("Left out: its moving pictures, the model has no branch for video.",)
    assert refused(folder / "clip.mp4", reader=blind, sound=False).startswith(
        "this is video with audio (its sound was not asked for)"
    )


def test_a_sound_track_nobody_asked_for_is_left_out_without_a_word(folder):
    upload = read(folder / "clip.mp4", sound=False)
    assert ([item.kind for item in upload.items], upload.notes) == (["video"], ())
    assert [item.kind for item in read(folder / "sound.wav", sound=False).items] == ["audio"]


def test_a_broken_sound_track_is_told_and_the_pictures_are_seen(folder, tmp_path):
    content = bytearray((folder / "clip.mp4").read_bytes())
    with av.open(str(folder / "clip.mp4")) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content)
    upload = read(broken)
    assert [item.kind for item in upload.items] == ["video"]
    assert upload.notes == ("Left out: its sound (no sound could be decoded).",)
    with pytest.raises(MediaError, match="no sound could be decoded"):
        read(broken, reader=UploadReader({"audio": AUDIO}))


@pytest.mark.parametrize(
    ("name", "wanted"), [("a.mp4", {"options": {"movflags": "faststart"}}), ("a.mkv", {})]
)
def test_a_file_that_is_cut_off_is_seen_as_far_as_it_goes_and_told(tmp_path, name, wanted):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures = [np.roll(noise, -3 * i, axis=1) for i in range(32)]
    path = write_clip(tmp_path / name, pictures, gop=4, **wanted)
    assert read(path).notes == ()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    upload = read(path, fps=4.0)
    # Half of the bytes are about half of the pictures, all being equally busy.
    assert 1.2 < upload.info.duration_s < 2.8
    (note,) = upload.notes
    there_s = upload.info.duration_s
    assert note == f"The file says it lasts 4.0 s, only {there_s:.1f} s are there."
    times_s = np.array(upload.items[0].times_s)
    assert np.diff(times_s).mean() == pytest.approx(0.25, abs=0.07)
    assert times_s[-1] < there_s


def test_a_picture_that_is_shown_for_long_is_no_missing_part(tmp_path):
    path = write_clip(tmp_path / "a.mp4", PICTURES[:4], ticks=[0, 1, 2, 80])
    upload = read(path)
    assert (upload.notes, upload.items[0].times_s[-1]) == ((), 10.0)
    assert upload.info.duration_s == pytest.approx(10.125)


def test_how_much_of_a_long_sound_is_heard_is_told(tmp_path):
    path = write_clip(tmp_path / "a.wav", sound=tone(duration_s=5.0), codecs=("", "pcm_s16le"))
    assert read(path).notes == ("Heard: its sound from 0 to 2 s; the model hears 2 s at most.",)
    assert read(path, start_s=3.0).notes == ()
    over_all = replace(AUDIO, spec=replace(AUDIO.spec, clip_policy="clips"))
    upload = read(path, reader=UploadReader({"audio": over_all}))
    assert (upload.notes, upload.items[0].times_s[-1]) == ((), pytest.approx(7 * 4.75 / 8))


# --- folders


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    for i in range(12):
        Image.fromarray(shade(i)).save(folder / f"frame_{i}.png")
    (folder / "notes.txt").write_text("a film")
    return folder


def test_a_folder_of_frames_is_a_clip_of_one_picture_a_second_in_the_order_of_numbers(frames):
    upload = read(frames, frames=12)
    (item,) = upload.items
    assert (item.kind, upload.info.duration_s) == ("video", 12.0)
    assert item.times_s == tuple(range(12))
    pixels = item.pixels.mul(255).round().permute(0, 2, 3, 1)
    assert [index_of(picture) for picture in pixels] == list(range(12))


def test_fps_says_how_fast_a_folder_is_shown(frames):
    upload = read(frames, fps=4.0, frames=12, start_s=1.0, end_s=2.0)
    assert upload.items[0].times_s == (1.0, 1.25, 1.5, 1.75)
    assert upload.info.duration_s == 3.0
    slow = read(frames, fps=1.0, frames=12, start_s=1.0, end_s=2.0)
    assert slow.items[0].content_hash != upload.items[0].content_hash


def test_a_folder_without_pictures_says_what_is_there(tmp_path):
    assert refused(tmp_path).endswith("there is nothing")
    for name in ("a.txt", "b.mp4", "c", "d", "e", "f"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "g").mkdir()
    assert refused(tmp_path).endswith("there is a.txt, b.mp4, c, d, e and 2 more")


def test_a_broken_picture_of_a_folder_is_named(tmp_path):
    Image.fromarray(shade(1)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(MediaError, match=r"2\.png: no picture"):
        read(tmp_path)


# --- what is no media


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("clip.mp4", b"x" * 100)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"What is in this file?\n" * 500, "text"),
        ("Gr\u00fc\u00dfe".encode() * 1000, "text"),
        ("Gr\u00fc\u00dfe".encode("utf-16"), "text"),
        (b'{"video": "a.mp4"}', "text, perhaps JSON"),
        (b"<!DOCTYPE html><video></video>", "a web page"),
        (b"<svg xmlns='...'></svg>", "an SVG drawing, which is text"),
        (b"#EXTM3U\nhttp://localhost/secret.mp4", "a playlist, which is text"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF document"),
        (zipped(), "a ZIP archive, or a document that is one (docx, xlsx, pptx)"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "a tar archive"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture; save it as JPEG"),
    ],
)
@pytest.mark.parametrize("ending", ["mp4", "mp3", "jpg", "txt"])
def test_what_is_no_media_is_named_with_what_is_supported(tmp_path, content, what, ending):
    path = tmp_path / f"upload.{ending}"
    path.write_bytes(content)
    reason = refused(path)
    assert reason.startswith(f"this is {what}; supported are video: mp4")
    assert "picture: jpg" in reason
    assert "sound: wav" in reason


@pytest.mark.parametrize("name", ["a.ppm", "a.bmp", "a.jpg", "a.tiff", "a.avif", "a.webp"])
def test_small_pictures_are_not_taken_for_text(tmp_path, name):
    Image.new("RGB", (2, 2), (65, 66, 67)).save(tmp_path / name)
    assert [item.kind for item in read(tmp_path / name).items] == ["image"]


def test_an_empty_file_and_a_missing_one_are_told(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert refused(tmp_path / "a.mp4") == "the file is empty (0 bytes)"
    assert refused(tmp_path / "b.mp4") == "no such file"
    with pytest.raises(MediaError, match=r"^label: the file is empty"):
        READER.read(UploadRequest("label", data=b""))


# --- limits


def limited(**limits):
    return UploadReader(READER.specs, limits=MediaLimits(**limits))


@pytest.fixture
def undecoded(monkeypatch):
    """Whoever decodes a packet fails."""

    def fail(*args):
        raise AssertionError("a packet was decoded")

    monkeypatch.setattr(media_file.TolerantDecoder, "_frames", fail)


def test_a_large_file_is_refused_before_it_is_opened(folder, frames, undecoded):
    small = limited(max_bytes=1000)
    assert refused(folder / "clip.mp4", reader=small).endswith(
        "at most 0.000953674 MiB are allowed; make it smaller first"
    )
    assert "make it smaller first" in refused(frames, reader=small)
    with pytest.raises(MediaError, match="^label: .*make it smaller first"):
        small.read(UploadRequest("label", data=bytes(1001)))
    # Their sizes are 120 bytes and more.
    assert sum(path.stat().st_size for path in frames.glob("*.png")) > 1000


@pytest.mark.parametrize("name", ["clip.mp4", "moving.gif", "moving.webp", "still.png"])
def test_large_pictures_are_refused_before_they_are_decoded(folder, undecoded, name):
    reason = refused(folder / name, reader=limited(max_pixels=64 * 64 - 1))
    assert reason == "64 x 64 pixels, at most 4095 are allowed; make it smaller first"


def test_every_picture_of_a_folder_is_measured(frames, tmp_path):
    for path in frames.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.new("1", (5000, 5000)).save(tmp_path / "frame_99.png")
    assert "5000 x 5000 pixels" in refused(tmp_path, reader=limited(max_pixels=64 * 64))
    assert read(frames, reader=limited(max_pixels=64 * 64)).items


@pytest.mark.parametrize("name", ["clip.mp4", "moving.gif", "moving.webp", "sound.wav"])
def test_long_clips_and_sounds_are_refused_before_they_are_decoded(folder, undecoded, name):
    reason = refused(folder / name, reader=limited(max_duration_s=1.5))
    assert reason.startswith("longer than the 1.5 s that are allowed; cut it first, or choose")


def test_a_span_of_a_long_clip_is_judged_by_its_own_length(folder):
    short = limited(max_duration_s=1.0)
    assert read(folder / "clip.mp4", reader=short, start_s=0.5, end_s=1.25).items
    assert "longer than the 1 s" in refused(folder / "clip.mp4", reader=short, start_s=0.5)
    assert read(folder / "clip.mp4", reader=short, start_s=1.0).items


def test_a_folder_is_as_long_as_it_is_shown(frames):
    assert "longer than the 11 s" in refused(frames, reader=limited(max_duration_s=11))
    assert read(frames, reader=limited(max_duration_s=11), fps=2.0).items


def test_ten_hours_of_silence_in_a_small_file_are_refused_without_decoding(undecoded):
    content = silence(36000 * 16000 // 1024)
    assert len(content) < 20 << 20
    with pytest.raises(MediaError, match="longer than the 3600 s"):
        limited(max_duration_s=3600).read(UploadRequest("silence", data=content))


def test_a_header_that_lies_about_the_length_is_not_believed(tmp_path, undecoded):
    path = write_clip(tmp_path / "a.mkv", PICTURES, sound=tone())
    content = path.read_bytes()
    duration = content.index(b"\x44\x89\x88") + 3
    assert struct.unpack(">d", content[duration : duration + 8])[0] > 1900
    path.write_bytes(content[:duration] + struct.pack(">d", 10.0) + content[duration + 8 :])
    assert "longer than the 1 s" in refused(path, reader=limited(max_duration_s=1.0))


def test_a_picture_that_unpacks_to_gigabytes_is_refused():
    # A PNG of 30000 x 30000 black pixels has some 100 kilobytes; only its header is needed here.
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100)))]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    with pytest.raises(MediaError, match="too large to be unpacked"):
        READER.read(UploadRequest("bomb", data=content))
