"""Batches worked out by hand: padding, masks, slots, rows, and branches with nothing to do."""

import pytest
import torch
from torch.utils.data import DataLoader

from video_llama.common.errors import ConfigError
from video_llama.common.types import IGNORE_INDEX, MediaItem
from video_llama.datasets.collate import Collator, EncodedSample, RoutedItem, Skip, collate
from video_llama.datasets.feature_cache import FileStamp
from video_llama.datasets.routing import route

PAD = 9
IGN = IGNORE_INDEX


def clip(steps, *, fill=1.0, key=None):
    item = MediaItem(
        "video",
        "a.mp4",
        pixels=torch.full((steps, 3, 16, 16), fill),
        times_s=tuple(i / 2 for i in range(steps)),
        feature_key=key,
    )
    return RoutedItem(item=item, branch="video", num_slots=2)


def cached_clip(steps):
    item = MediaItem("video", "b.mp4", features=torch.full((steps, 3, 5), 2.0), feature_key="c")
    item.times_s = tuple(float(i) for i in range(steps))
    return RoutedItem(item=item, branch="video", num_slots=2)


def sound():
    item = MediaItem("audio", "a.mp4", mel=torch.full((2, 1, 16, 25), 3.0), times_s=(0.0, 0.25))
    return RoutedItem(item=item, branch="audio", num_slots=1)


def sample(key, ids, slots, media=(), **more):
    labels = [i if i > 4 else IGN for i in ids]
    return EncodedSample(
        key=key, dataset="d", input_ids=ids, labels=labels, slots=slots, media=media, **more
    )


@pytest.fixture
def two():
    """A clip with its sound, then a shorter text about a clip of one frame."""
    return [
        sample("x", [1, 0, 0, 0, 5, 6], [0, 1, 1, 2, 0, 0], (clip(4), sound())),
        sample("y", [1, 0, 0, 7], [0, 1, 1, 0], (clip(1, fill=4.0),)),
    ]


def test_every_tensor_that_goes_to_a_gpu_is_pinned(two, specs, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self + 0)
    two[1] = sample("y", [1, 0, 0, 7], [0, 1, 1, 0], (cached_clip(1),))
    before = Collator(specs, pad_id=PAD)(two)
    after = before.pin_memory()
    video, sound = before.batch.media["video"], before.batch.media["audio"]
    batch = before.batch
    wanted = [batch.input_ids, batch.attention_mask, batch.labels, video.raw, video.raw_mask]
    wanted += [video.cached, video.cached_mask, sound.raw, sound.raw_mask]
    assert {id(tensor) for tensor in wanted} <= {id(tensor) for tensor in pinned}
    assert after.batch.media["video"].raw is not video.raw
    assert after.batch.keys == batch.keys
    assert torch.equal(after.batch.input_ids, batch.input_ids)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_data_loader_pins_batches_for_a_gpu(two, specs):
    loader = DataLoader([two], batch_size=None, collate_fn=Collator(specs, PAD), pin_memory=True)
    (loaded,) = loader
    assert loaded.batch.media["video"].raw.is_pinned()
    assert loaded.batch.labels.is_pinned()


def test_text_is_padded_on_the_right(two, specs):
    batch = collate(two, specs=specs, pad_id=PAD)
    assert batch.input_ids.tolist() == [[1, 0, 0, 0, 5, 6], [1, 0, 0, 7, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert batch.labels.tolist() == [[IGN] * 4 + [5, 6], [IGN] * 3 + [7, IGN, IGN]]
    assert batch.slots.tolist() == [[0, 1, 1, 2, 0, 0], [0, 3, 3, 0, 0, 0]]
    assert batch.slots.dtype == torch.int32
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64


def test_text_is_padded_on_the_left_for_generation(two, specs):
    batch = collate(two, specs=specs, pad_id=PAD, padding_side="left")
    assert batch.input_ids[1].tolist() == [PAD, PAD, 1, 0, 0, 7]
    assert batch.attention_mask[1].tolist() == [False] * 2 + [True] * 4
    assert batch.slots[1].tolist() == [0, 0, 0, 3, 3, 0]
    assert batch.labels[1].tolist() == [IGN, IGN, IGN, IGN, IGN, 7]


def test_every_item_knows_its_branch_its_row_and_its_sample(two, specs):
    batch = collate(two, specs=specs, pad_id=PAD)
    found = [(i.branch, i.row, i.num_slots, i.sample) for i in batch.items]
    assert found == [("video", 0, 2, 0), ("audio", 0, 1, 0), ("video", 1, 2, 1)]
    assert list(batch.keys) == ["x", "y"]
    assert batch.dataset == "d"


def test_a_clip_of_one_frame_is_padded_and_masked(two, specs):
    video = collate(two, specs=specs, pad_id=PAD).media["video"]
    assert video.raw.shape == (2, 4, 3, 16, 16)
    assert video.raw_mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert video.raw[1, 0].eq(4).all()
    assert video.raw[1, 1:].eq(0).all()
    assert video.raw_rows.tolist() == [0, 1]
    assert video.cached is None


def test_a_branch_without_items_is_there_with_no_row(specs):
    batch = collate([sample("t", [1, 5], [0, 0])], specs=specs, pad_id=PAD)
    assert batch.media["video"].raw.shape == (0, 4, 3, 16, 16)
    assert batch.media["audio"].raw.shape == (0, 2, 1, 16, 25)
    assert batch.media["audio"].raw_mask.shape == (0, 2)
    assert batch.media["audio"].raw_rows.dtype == torch.int64
    assert batch.media["audio"].num_rows == 0
    assert list(batch.items) == []


def test_raw_and_cached_rows_of_a_branch_stand_apart(specs):
    samples = [
        sample("x", [1, 0, 0], [0, 1, 1], (cached_clip(4),)),
        sample("y", [1, 0, 0], [0, 1, 1], (clip(4),)),
        sample("z", [1, 0, 0], [0, 1, 1], (cached_clip(2),)),
    ]
    video = collate(samples, specs=specs, pad_id=PAD).media["video"]
    assert video.raw_rows.tolist() == [1]
    assert video.cached_rows.tolist() == [0, 2]
    assert video.cached.shape == (2, 4, 3, 5)
    assert video.cached_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert video.cached[1, 2:].eq(0).all()
    assert video.num_rows == 3


def test_the_loader_reports_skips_and_what_the_cache_must_know(specs):
    skip = Skip("d", "k", "p", "broken", 0, 0)
    stamp = FileStamp("p", 1, 2, "digest")
    samples = [
        sample("x", [1, 0, 0], [0, 1, 1], (clip(2, key="new"),), skips=(skip,), stamps=(stamp,)),
        sample("y", [1, 0, 0], [0, 1, 1], (cached_clip(4),)),
    ]
    loaded = Collator(specs, pad_id=PAD)(samples)
    assert loaded.skips == (skip,)
    assert loaded.stamps == (stamp,)
    assert loaded.times_s == {"new": (0.0, 0.5)}
    assert [item.feature_key for item in loaded.batch.items] == ["new", "c"]


def test_kinds_are_routed_to_the_branch_that_takes_them(specs):
    assert route(specs) == {"image": "video", "video": "video", "audio": "audio"}


def test_two_branches_that_want_the_same_kind_are_refused(specs):
    with pytest.raises(ConfigError, match="'a' and 'b' both take image"):
        route({"a": specs["video"], "b": specs["video"]})


def test_places_for_an_item_that_is_not_there_are_named(specs):
    with pytest.raises(ConfigError, match="x: its text has places for item 2, and there are 1"):
        collate([sample("x", [1, 0, 0, 0], [0, 1, 1, 2], (clip(1),))], specs=specs, pad_id=PAD)


def test_every_item_that_does_not_fit_its_places_is_named(specs):
    wrong = [sample(key, [1, 0, 5], [0, 1, 0], (clip(1),)) for key in ("x", "y")]
    with pytest.raises(ConfigError) as caught:
        collate(wrong, specs=specs, pad_id=PAD)
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        f"{key}: its text has 1 places for item 1, video a.mp4, which takes 2 decoder positions "
        "in branch 'video'"
        for key in ("x", "y")
    ]
