"""What was packed is what is read: the same samples, the same features, nothing lost silently."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import webdataset
from shard_files import packed
from tables import BROKEN, NUM_CLIPS, webvid

from video_llama.common.errors import ConfigError
from video_llama.common.types import MediaItem
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.datasets.llava_instruct import LlavaInstruct
from video_llama.datasets.messages import Messages
from video_llama.datasets.mvbench import MVBench
from video_llama.datasets.packing import Manifest, ShardLimits, is_drawn, pack
from video_llama.datasets.shard_set import MANIFEST

GOOD = [index for index in range(NUM_CLIPS) if index != BROKEN]


def pack_all(reader, folder: Path, *, max_count: int = 2, source: str = "a") -> Manifest:
    return pack(
        reader,
        folder,
        source={"type": source},
        limits=ShardLimits(max_count=max_count),
        progress=lambda done: None,
    )


def shown(sample):
    """All of a sample but where its media lie."""
    content = [
        (
            m.role,
            [(p.kind, p.start_s, p.end_s) if isinstance(p, MediaItem) else p for p in m.content],
        )
        for m in sample.messages
    ]
    return sample.key, sample.dataset, sample.form, sample.frame_times, sample.meta, content


@pytest.fixture
def loose(table, media_dir):
    return webvid(table, media_dir, streams=("video", "audio"))


@pytest.fixture
def shards(loose, tmp_path):
    folder = tmp_path / "shards"
    pack_all(loose, folder)
    return folder


def test_packed_samples_are_the_loose_ones(loose, shards):
    reader = packed(shards)
    assert reader.missing() == []
    found = [shown(reader.sample(i)) for i in range(len(reader))]
    assert found == [shown(loose.sample(i)) for i in GOOD]
    assert [reader.key(i) for i in range(len(reader))] == [loose.key(i) for i in GOOD]


def test_packed_media_reach_the_encoder_as_the_loose_ones_do(loose, shards, make_encoder):
    encoder = make_encoder()
    reader = packed(shards)
    for index in (0, 3):
        ours = encoder.load_media(reader.sample(index), seed=1, augment="random_crop").items
        theirs = encoder.load_media(loose.sample(GOOD[index]), seed=1, augment="random_crop").items
        assert torch.equal(ours[0].item.pixels, theirs[0].item.pixels)
        assert torch.equal(ours[1].item.mel, theirs[1].item.mel)
        assert ours[0].item.times_s == theirs[0].item.times_s
        assert ours[0].item.content_hash == theirs[0].item.content_hash


def test_features_of_a_loose_clip_are_found_for_the_packed_one(
    loose, shards, make_encoder, tmp_path
):
    cache = FeatureCache(tmp_path / "cache")
    encoder = make_encoder(cache)
    computed = encoder.load_media(loose.sample(0))
    item = computed.items[0].item
    cache.put(item.feature_key, torch.ones(4, 3, 5), times_s=item.times_s)
    again = encoder.load_media(packed(shards).sample(0)).items
    assert torch.equal(again[0].item.features, torch.ones(4, 3, 5))
    assert again[1].item.features is None


def test_a_clip_and_its_own_sound_are_stored_once(loose, shards):
    media = packed(shards).sample(0).media
    assert media[0].member == media[1].member
    assert media[0].member.size == Path(loose.sample(0).media[0].path).stat().st_size


def test_a_broken_clip_is_named_and_left_out(loose, tmp_path):
    manifest = pack_all(loose, tmp_path / "out")
    assert [broken.key for broken in manifest.broken] == [f"page/{BROKEN}"]
    assert f"{BROKEN}.mp4: cannot be opened" in manifest.broken[0].reason
    assert manifest.num_samples == NUM_CLIPS - 1
    assert Manifest.read(tmp_path / "out" / MANIFEST) == manifest


def test_webdataset_reads_what_was_packed(shards):
    files = [str(path) for path in sorted(shards.glob("*.tar"))]
    found = list(webdataset.WebDataset(files, shardshuffle=False))
    rows = [json.loads(sample["json"]) for sample in found]
    assert [row["id"] for row in rows] == [f"page/{i}" for i in GOOD]
    assert all(sample["0.mp4"][4:8] == b"ftyp" for sample in found)


def test_the_limit_of_bytes_opens_the_next_shard(loose, tmp_path):
    pack(
        loose,
        tmp_path / "out",
        source={},
        limits=ShardLimits(max_mb=1e-6),
        progress=lambda done: None,
    )
    assert len(list((tmp_path / "out").glob("*.tar"))) == NUM_CLIPS - 1


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [0, 1, 3, 4, 5])
def test_a_packing_that_was_killed_goes_on_to_the_same_bytes(loose, shards, tmp_path, stop_at):
    folder = tmp_path / "again"

    def stop(done: int) -> None:
        if done == stop_at + 1:
            raise Stop

    with pytest.raises(Stop):
        pack(
            loose,
            folder,
            source={"type": "a"},
            limits=ShardLimits(max_count=2),
            progress=stop,
        )
    with pytest.raises(ConfigError, match="packing has not been finished"):
        len(packed(folder))
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    pack_all(loose, folder)
    for name, mtime_ns in kept.items():
        assert (folder / name).stat().st_mtime_ns == mtime_ns
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in shards.iterdir()
    }


def test_another_source_is_refused_with_what_differs(loose, shards):
    with pytest.raises(ConfigError, match="made otherwise .type 'a' -> 'b'"):
        pack_all(loose, shards, source="b")


def test_nothing_usable_is_an_error(table, tmp_path):
    reader = webvid(table, tmp_path)
    with pytest.raises(ConfigError, match="none of its 6 samples can be packed.*no such file"):
        pack_all(reader, tmp_path / "out")


def test_shards_can_be_packed_anew(loose, shards, tmp_path):
    pack_all(packed(shards), tmp_path / "again", max_count=4)
    again = packed(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.tar"))) == 2
    assert [shown(again.sample(i)) for i in range(5)] == [shown(loose.sample(i)) for i in GOOD]


def test_spans_questions_and_conversations_survive(media_dir, tmp_path):
    question = {"video": "page/0.mp4", "question": "q?", "candidates": ["a", "b"], "answer": "a"}
    (tmp_path / "bench.json").write_text(json.dumps([{**question, "start": 0.25, "end": 0.5}]))
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A bus."}]
    (tmp_path / "llava.json").write_text(
        json.dumps([{"id": "9", "image": "000000000009.jpg", "conversations": turns}])
    )
    part = {"type": "video", "video": "page/1.mp4", "start": 0.5}
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [part, {"type": "text", "text": "And?"}]},
        {"role": "assistant", "content": "Yes."},
    ]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"id": "t", "messages": talk}))
    for cls, file, media in (
        (MVBench, "bench.json", media_dir),
        (LlavaInstruct, "llava.json", media_dir / "image"),
        (Messages, "talk.jsonl", media_dir),
    ):
        reader = cls(cls.Config(annotations=str(tmp_path / file), media=str(media)), name="clips")
        pack_all(reader, tmp_path / cls.__name__)
        assert shown(packed(tmp_path / cls.__name__).sample(0)) == shown(reader.sample(0))


def test_seconds_of_a_message_must_be_in_order(tmp_path):
    part = {"type": "video", "video": "1.mp4", "start": 2, "end": 1}
    row = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "And?"}]}]}
    (tmp_path / "talk.jsonl").write_text(json.dumps(row))
    config = Messages.Config(annotations=str(tmp_path), media=str(tmp_path))
    with pytest.raises(ConfigError, match="message 1: 'end' must come after 'start'"):
        len(Messages(config, name="x"))


def test_choices_that_change_from_pass_to_pass_are_told(table, media_dir):
    assert not is_drawn(webvid(table, media_dir))
    assert is_drawn(webvid(table, media_dir, prompts=("What?", "Who?", "Where?")))


def test_a_shard_that_was_lost_is_missed(shards):
    (shards / "000001.tar").unlink()
    assert "000001.tar" in packed(shards).missing()[0]


def test_a_folder_of_pictures_is_named_as_what_it_is(media_dir, tmp_path):
    shutil.copytree(media_dir / "image", tmp_path / "page" / "0.mp4")
    (tmp_path / "t.csv").write_text("videoid,name,page_dir\n0,a,page\n")
    with pytest.raises(ConfigError, match="this is a folder"):
        pack_all(webvid(tmp_path / "t.csv", tmp_path), tmp_path / "out")
