"""A small world on disk: what is there, that it says the truth, and that it can be gone on with."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from video_llama.common.errors import ConfigError
from video_llama.toy import world as toy_world
from video_llama.toy.annotations import ask_to_learn, cross_modal_rows
from video_llama.toy.captions import visual_caption
from video_llama.toy.plan import Counts, sample_split, still_scenes, voices
from video_llama.toy.render import render_clip
from video_llama.toy.scenes import sample_scene
from video_llama.toy.words import ThingWords
from video_llama.toy.world import World, write_world

SEED = 3
COUNTS = Counts(
    train=6, valid=4, test=30, composition=6, train_pictures=6, valid_pictures=3, voices=1
)


@pytest.fixture(scope="module", autouse=True)
def _quick_ceilings() -> object:
    # The real ones add up every scene there is, whatever the world's size; they have own tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            toy_world, "ceilings_by_kind", lambda kinds, **_: {kind: {} for kind in kinds}
        )
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world") / "w"
    return write_world(folder, seed=SEED, counts=COUNTS, num_workers=1)


def texts_of(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_every_clip_is_there(world: World):
    for split in ("train", "valid", "test", "composition"):
        for clip in sample_split(split, counts=COUNTS, seed=SEED).clips:
            assert (world.folder / "videos" / clip.path).is_file()


def test_the_manifest_counts_the_clips_of_every_split(world: World):
    found = Counter(path.name.split("-")[0] for path in (world.folder / "videos").rglob("*.mp4"))
    manifest = json.loads((world.folder / "world.json").read_text())
    assert manifest["clips"] == world.num_clips == found
    assert found["train"] == COUNTS.train


def test_a_clip_has_sixteen_small_frames_and_two_seconds_of_mono_sound(world: World):
    with av.open(str(world.folder / "videos/train_000/train-3-000000.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.average_rate) == (64, 64, 8)
        assert (audio.rate, audio.layout.name) == (16_000, "mono")
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 16_000
    assert 2.0 <= seconds < 2.1
    assert len(frames_of(world.folder / "videos/train_000/train-3-000000.mp4")) == 16


def test_a_decoded_clip_looks_like_what_was_drawn(world: World):
    clip = sample_split("train", counts=COUNTS, seed=SEED).clips[1]
    drawn = render_clip(clip.scene).astype(int)
    assert np.abs(frames_of(world.folder / "videos" / clip.path) - drawn).mean() < 5


def test_captions_tell_of_the_clip_they_stand_with(world: World):
    with (world.folder / "webvid/visual/train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNTS.train
    for index, row in enumerate(rows):
        clip = sample_split("train", counts=COUNTS, seed=SEED).clips[index]
        assert (row["videoid"], row["page_dir"]) == (clip.scene.key, "train_000")
        assert row["name"] == visual_caption(clip.scene)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_every_captioned_picture_is_there(world: World, split: str):
    folder = world.folder / "pictures" / split
    rows = json.loads((folder / "filter_cap.json").read_text())["annotations"]
    assert len(rows) == getattr(COUNTS, f"{split}_pictures")
    for row in rows:
        with Image.open(folder / "image" / f"{row['image_id']}.jpg") as picture:
            assert picture.size == (64, 64)


def test_questions_about_sound_are_not_asked_of_silent_pictures(world: World):
    rows = json.loads((world.folder / "questions/test/visual/questions.json").read_text())
    assert rows
    assert all(row["needs"] == ["video"] for row in rows)


def test_the_joint_questions_include_all_others(world: World):
    folder = world.folder / "questions" / "test"
    rows = {
        name: json.loads((folder / name / "questions.json").read_text())
        for name in ("visual", "sound", "joint")
    }
    assert len(rows["joint"]) >= len(rows["visual"]) + len(rows["sound"])
    assert {row["kind"] for row in rows["joint"]} >= {"colour", "sound"}


def test_cross_modal_conversations_are_about_every_clip_with_an_event_and_a_pip():
    clips = sample_split("train", counts=replace(COUNTS, train=60), seed=SEED).clips
    rows = cross_modal_rows(clips, [ask_to_learn(clip.scene) for clip in clips])
    both = [clip for clip in clips if clip.scene.event and clip.scene.sound.kind == "pip"]
    assert len(both) >= 3
    assert [row["video"] for row in rows] == [clip.path for clip in both]
    for clip, row in zip(both, rows, strict=True):
        (turn,) = row["QA"]
        verdict = "yes" if clip.scene.event.bin == clip.scene.sound.pip_bin else "no"
        assert turn["a"] == f"{clip.scene.event.bin} {clip.scene.sound.pip_bin}: {verdict}"


def test_answers_are_balanced_within_a_kind(world: World):
    rows = json.loads((world.folder / "questions/test/joint/questions.json").read_text())
    counted = Counter((row["kind"], row["answer"]) for row in rows)
    for kind in ("pitch", "shape"):
        assert len({number for (k, _), number in counted.items() if k == kind}) == 1


def test_only_multiple_choice_has_candidates_and_the_answer_is_among_them(world: World):
    rows = json.loads((world.folder / "questions/test/joint/questions.json").read_text())
    for row in rows:
        assert ("candidates" in row) == row["kind"].startswith("mc_")
        assert row["answer"] in row.get("candidates", [row["answer"]])


def test_every_voice_is_asked_its_shape_and_its_colour(world: World):
    rows = json.loads((world.folder / "voices/questions.json").read_text())
    assert Counter(row["kind"] for row in rows) == {"voice_shape": 24, "voice_colour": 24}
    assert all((world.folder / "voices/sound" / row["video"]).is_file() for row in rows)


def test_scenes_are_written_down_without_infinities(world: World):
    lines = (world.folder / "scenes.jsonl").read_text().splitlines()
    assert "Infinity" not in "".join(lines)
    assert json.loads(lines[0])["key"] == "train-3-000000"


def test_equal_seeds_give_equal_texts_and_equal_frames(world: World, tmp_path: Path):
    again = write_world(tmp_path / "w", seed=SEED, counts=COUNTS, num_workers=1)
    assert texts_of(again.folder) == texts_of(world.folder)
    for path in (world.folder / "videos").rglob("*.mp4"):
        twin = again.folder / path.relative_to(world.folder)
        assert np.array_equal(frames_of(path), frames_of(twin))


def test_a_finished_world_is_recognised(world: World):
    assert write_world(world.folder, seed=SEED, counts=COUNTS, num_workers=1).was_there


def test_a_killed_run_goes_on_and_keeps_finished_folders(world: World, tmp_path: Path):
    folder = tmp_path / "w"
    shutil.copytree(world.folder, folder)
    manifest = json.loads((folder / "world.json").read_text())
    told = {"format", "seed", "counts"}  # all that is known before the last clip is there
    (folder / "world.json").write_text(json.dumps({k: manifest[k] for k in told}))
    shutil.rmtree(folder / "videos" / "valid_000")
    (folder / "videos" / "valid_000.part").mkdir()
    kept = folder / "videos" / "train_000"
    before = kept.stat().st_mtime_ns
    write_world(folder, seed=SEED, counts=COUNTS, num_workers=1)
    assert kept.stat().st_mtime_ns == before
    assert len(list((folder / "videos" / "valid_000").iterdir())) == COUNTS.valid
    assert texts_of(folder) == texts_of(world.folder)


def test_clips_left_for_later_are_written_by_the_next_call(world: World, tmp_path: Path):
    folder = tmp_path / "w"
    write_world(folder, seed=SEED, counts=COUNTS, num_workers=1, later=("test", "composition"))
    pages = {path.name for path in (folder / "videos").iterdir()}
    assert pages == {"train_000", "valid_000"}
    assert not write_world(folder, seed=SEED, counts=COUNTS, num_workers=1).was_there
    assert texts_of(folder) == texts_of(world.folder)
    clips = [sorted(p.name for p in w.rglob("*.mp4")) for w in (folder, world.folder)]
    assert clips[0] == clips[1]


@pytest.mark.parametrize(
    ("calls", "lacking"),
    [
        ([("test", "composition")], ["test", "composition"]),
        ([("test", "composition"), ("composition",)], ["composition"]),
        ([("test",), ("composition",)], []),
        ([("composition",), ()], []),
    ],
)
def test_the_manifest_names_the_splits_that_were_left_for_later(
    calls: list[tuple[str, ...]], lacking: list[str], tmp_path: Path, world: World
):
    for later in calls:
        write_world(tmp_path / "w", seed=SEED, counts=COUNTS, num_workers=1, later=later)
    manifest = json.loads((tmp_path / "w" / "world.json").read_text())
    assert manifest["later"] == lacking
    if not lacking:
        assert texts_of(tmp_path / "w") == texts_of(world.folder)


def test_what_may_be_left_for_later_is_not_missed(world: World, tmp_path: Path):
    folder = tmp_path / "w"
    for _ in range(2):
        again = write_world(folder, seed=SEED, counts=COUNTS, num_workers=1, later=["composition"])
    assert again.was_there
    whole = write_world(
        world.folder, seed=SEED, counts=COUNTS, num_workers=1, later=["composition"]
    )
    assert whole.was_there


def test_a_run_killed_amid_clips_left_for_later_goes_on(world: World, tmp_path: Path):
    folder = tmp_path / "w"
    write_world(folder, seed=SEED, counts=COUNTS, num_workers=1, later=["test", "composition"])
    shutil.copytree(world.folder / "videos/test_000", folder / "videos/test_000")
    (folder / "videos/composition_000.part").mkdir()
    before = (folder / "videos/test_000").stat().st_mtime_ns
    write_world(folder, seed=SEED, counts=COUNTS, num_workers=1)
    assert (folder / "videos/test_000").stat().st_mtime_ns == before
    pages = [sorted(path.name for path in (w / "videos").iterdir()) for w in (folder, world.folder)]
    assert pages[0] == pages[1]


def test_the_folder_of_another_world_is_refused_with_the_difference(world: World):
    with pytest.raises(ConfigError, match="seed: the folder has 3, asked for is 4"):
        write_world(world.folder, seed=4, counts=COUNTS, num_workers=1)


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        write_world(tmp_path, seed=0, counts=COUNTS, num_workers=1)


def test_pictures_show_no_held_out_thing():
    for scene in still_scenes("train", counts=Counts(train_pictures=200), seed=0):
        for thing in scene.things:
            assert thing.motion == "still"
            assert not ThingWords(thing.shape, thing.colour, "still").is_held_out


def test_pictures_and_clips_are_of_different_scenes():
    assert still_scenes("train", counts=COUNTS, seed=0)[0].key != "train-0-000000"
    assert sample_scene(0, seed=0, split="train").key == "train-0-000000"


def test_voices_come_in_every_shape_and_colour():
    kinds = Counter((voice.shape, voice.colour) for voice in voices(counts=COUNTS, seed=0))
    assert len(kinds) == 24
    assert set(kinds.values()) == {1}


def test_a_smaller_world_shrinks_in_proportion():
    assert Counts.scaled_to(6000) == Counts()
    assert Counts.scaled_to(3000).test == Counts().test // 2
    assert Counts.scaled_to(12000).test == Counts().test
