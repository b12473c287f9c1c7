"""What comes out of the cache is what went in, and only where nothing else could come out."""

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil

import pytest
import torch

from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.media_specs import spec_identity
from video_llama.common.types import MediaItem
from video_llama.datasets import feature_cache
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.processors.media import content_hash


@pytest.fixture
def clip(media_dir, tmp_path):
    """A copy of a clip that a test may change or delete."""
    path = tmp_path / "clip.mp4"
    shutil.copy(media_dir / "page" / "0.mp4", path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_come_back_bit_equal_in_another_process_object(tmp_path, dtype):
    features = torch.randn(3, 2, 5).to(dtype)
    cache = FeatureCache(tmp_path)
    cache.put("k", features, times_s=(0.0, 0.1, 1 / 3))
    cache.flush()
    found = FeatureCache(tmp_path).get("k")
    assert found.features.dtype == dtype
    assert torch.equal(found.features, features)
    assert found.times_s == (0.0, 0.1, 1 / 3)


def test_features_can_be_read_before_they_are_on_disk(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put("k", torch.ones(1, 1, 2))
    assert torch.equal(cache.get("k").features, torch.ones(1, 1, 2))


def test_an_open_cache_sees_what_another_process_has_written_since(tmp_path):
    reader = FeatureCache(tmp_path)
    assert reader.get("k") is None
    writer = FeatureCache(tmp_path, rank=1)
    writer.put("k", torch.ones(1, 1, 2))
    writer.flush()
    assert torch.equal(reader.get("k").features, torch.ones(1, 1, 2))


def test_others_find_features_before_the_epoch_ends(tmp_path):
    writer, reader = FeatureCache(tmp_path), FeatureCache(tmp_path)
    for number in range(300):
        writer.put(str(number), torch.zeros(1, 1, 1))
    assert reader.get("0") is not None


def _write(directory, rank):
    cache = FeatureCache(directory, rank=rank)
    for number in range(20):
        cache.put(f"{rank}-{number}", torch.full((1, 1, 3), float(rank * 100 + number)))
        cache.flush()


def test_processes_of_the_same_rank_do_not_write_over_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(tmp_path, rank)) for rank in (0, 0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    cache = FeatureCache(tmp_path)
    assert len(cache) == 40
    for rank in (0, 1):
        assert cache.get(f"{rank}-7").features.flatten().tolist() == [rank * 100 + 7] * 3


def test_half_a_line_left_by_a_killed_run_is_not_read(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put("a", torch.zeros(1, 1, 2))
    cache.put("b", torch.ones(1, 1, 2))
    cache.flush()
    index = next(tmp_path.glob("*.jsonl"))
    index.write_bytes(index.read_bytes()[:-10])
    survivor = FeatureCache(tmp_path)
    assert survivor.get("a") is not None
    assert survivor.get("b") is None


def test_a_full_disk_is_told_with_the_folder_and_the_way_out(tmp_path, monkeypatch):
    def refuse(_file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(feature_cache, "_sync", refuse)
    cache = FeatureCache(tmp_path / "features")
    cache.put("a", torch.ones(1, 1, 4))
    found = r"run\.feature_cache: .*/features cannot be written: No space left on device"
    way_out = r"make room, or set run\.feature_cache=null.* run\.resume_ckpt_path=auto"
    with pytest.raises(VideoLlamaError, match=f"{found}; {way_out}"):
        cache.flush()


def test_a_damaged_file_stops_the_run_instead_of_training_on_it(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put("a", torch.ones(1, 1, 4))
    cache.flush()
    data = next(tmp_path.glob("*.bin"))
    data.write_bytes(b"\xff" + data.read_bytes()[1:])
    with pytest.raises(ConfigError, match="damaged"):
        FeatureCache(tmp_path).get("a")


def test_a_missing_data_file_is_named(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put("a", torch.ones(1, 1, 4))
    cache.flush()
    next(tmp_path.glob("*.bin")).unlink()
    with pytest.raises(ConfigError, match=r"rank0-0000\.bin is damaged or incomplete"):
        FeatureCache(tmp_path).get("a")


def test_a_cache_travels_to_a_worker_that_is_started_afresh(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put("a", torch.ones(1, 1, 4))
    cache.flush()
    cache.get("a")
    assert torch.equal(pickle.loads(pickle.dumps(cache)).get("a").features, torch.ones(1, 1, 4))


def test_padded_steps_are_not_kept(tmp_path):
    cache = FeatureCache(tmp_path)
    features = torch.arange(12.0).reshape(4, 1, 3)
    cache.add({"k": features}, times_s={"k": (0.0, 0.5)})
    assert torch.equal(cache.get("k").features, features[:2])


def test_a_file_is_found_again_by_its_content_under_another_name(tmp_path, clip, specs):
    cache = FeatureCache(tmp_path / "cache")
    other = tmp_path / "other.mp4"
    shutil.copy(clip, other)
    keys = {
        cache.look_up(MediaItem("video", str(path)), specs["video"]).key for path in (clip, other)
    }
    assert len(keys) == 1


def test_any_change_of_what_shaped_the_features_misses(tmp_path, clip, specs):
    video = specs["video"]
    item = MediaItem("video", str(clip))
    cache = FeatureCache(tmp_path / "cache", reader="pyav")
    variants = [
        (cache, item, video),
        (cache, MediaItem("image", str(clip)), video),
        (cache, MediaItem("video", str(clip), start_s=0.1), video),
        (cache, MediaItem("video", str(clip), end_s=0.1), video),
        (cache, item, dataclasses.replace(video, frontier_id="other weights")),
        (FeatureCache(tmp_path / "cache", reader="decord"), item, video),
        *(
            (
                cache,
                item,
                dataclasses.replace(video, spec=dataclasses.replace(video.spec, **change)),
            )
            for change in (
                {"num_frames": 5},
                {"image_size": 32},
                {"mean": (0.4, 0.5, 0.5)},
                {"std": (0.4, 0.5, 0.5)},
                {"frame_policy": "linspace"},
            )
        ),
        (cache, item, specs["audio"]),
    ]
    keys = [c.look_up(i, s).key for c, i, s in variants]
    assert None not in keys
    assert len(set(keys)) == len(variants)


def test_a_key_is_the_hash_of_all_it_depends_on_in_the_order_it_always_had(tmp_path, clip, specs):
    key = FeatureCache(tmp_path, reader="r").look_up(MediaItem("video", str(clip)), specs["video"])
    spec = specs["video"]
    parts = {
        "version": 2,
        "content": content_hash(clip),
        "kind": "video",
        "span_s": [None, None],
        "spec": ["VideoSpec", spec_identity(spec.spec)],
        "reader": "r",
        "augment": "none",
        "frontier": [spec.frontier_id, dataclasses.asdict(spec.frontier)],
    }
    told = json.dumps(parts).encode()
    assert key.key == hashlib.blake2b(told, digest_size=16).hexdigest()


def test_the_way_a_path_is_written_makes_no_other_file(tmp_path, clip, specs, monkeypatch):
    cache = FeatureCache(tmp_path / "cache")
    (tmp_path / "beside").mkdir()
    stamps = set()
    for folder, path in [
        (tmp_path, str(clip)),
        (tmp_path, "clip.mp4"),
        (tmp_path, "./clip.mp4"),
        (tmp_path, f"{tmp_path}//clip.mp4"),
        (tmp_path.parent, f"{tmp_path.name}/clip.mp4"),
    ]:
        monkeypatch.chdir(folder)
        assert cache.look_up(MediaItem("video", path), specs["video"]).key
        stamps |= cache._stamps.keys()
    assert stamps == {str(clip)}
    # Where "beside" is a link, the folder above it is another one.
    cache.look_up(MediaItem("video", f"{tmp_path}/beside/../clip.mp4"), specs["video"])
    assert cache._stamps.keys() == {str(clip), f"{tmp_path}/beside/../clip.mp4"}


def test_a_relative_path_is_another_file_in_another_folder(tmp_path, media_dir, specs, monkeypatch):
    cache = FeatureCache(tmp_path / "cache")
    keys = []
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(media_dir / "page" / f"{number}.mp4", folder / "clip.mp4")
        monkeypatch.chdir(folder)
        keys.append(cache.look_up(MediaItem("video", "clip.mp4"), specs["video"]).key)
    assert keys[0] != keys[1]


def test_a_changed_file_misses(tmp_path, media_dir, clip, specs):
    cache = FeatureCache(tmp_path / "cache")
    item = MediaItem("video", str(clip))
    before = cache.look_up(item, specs["video"]).key
    shutil.copy(media_dir / "page" / "1.mp4", clip)
    assert cache.look_up(item, specs["video"]).key != before


def test_a_branch_whose_encoder_learns_is_not_cached(tmp_path, clip, specs):
    learning = dataclasses.replace(specs["video"], frontier_id=None)
    found = FeatureCache(tmp_path / "cache").look_up(MediaItem("video", str(clip)), learning)
    assert (found.key, found.hit, found.stamp) == (None, None, None)


def test_a_file_is_hashed_once_and_never_again_by_later_runs(tmp_path, clip, specs):
    cache = FeatureCache(tmp_path / "cache")
    item = MediaItem("video", str(clip))
    first = cache.look_up(item, specs["video"])
    assert first.stamp is not None
    cache.add({}, times_s={}, stamps=[first.stamp])
    cache.flush()
    later = FeatureCache(tmp_path / "cache").look_up(item, specs["video"])
    assert later.stamp is None
    assert later.key == first.key


def test_the_index_is_plain_json_lines(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put("a", torch.ones(2, 1, 4), times_s=(0.0, 1.0))
    cache.flush()
    line = json.loads(next(tmp_path.glob("*.jsonl")).read_text())
    assert line["key"] == "a"
    assert line["shape"] == [2, 1, 4]
    assert line["num_bytes"] == 2 * 4 * 4
