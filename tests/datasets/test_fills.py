"""Who takes the place of a sample that cannot be used, and how that is kept."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processors.unruly import Unruly
from tables import BROKEN, NUM_CLIPS, webvid, write_table
from torch.utils.data import DataLoader

from video_llama.common.errors import ConfigError
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.blocks import Blocks
from video_llama.datasets.collate import Skip
from video_llama.datasets.fills import MAX_FILLS, candidates, read_record, write_record
from video_llama.datasets.mixture import MixtureDataset
from video_llama.datasets.stream import SampleRef
from video_llama.processors.supervised import SupervisedLoader

KINDS = ((), ("image",), ("video",), ("audio",), ("video", "audio"))
"""Text only, image, video, audio, video with sound."""


class Rows(DatasetReader):
    """Samples whose media are told by a list, in shards of `sizes` if there are any."""

    def __init__(self, rows, *, sizes=()):
        super().__init__(DatasetReader.Config(), name="rows")
        self.rows = rows
        self.sizes = sizes

    @property
    def kinds(self):
        return None

    @property
    def blocks(self):
        return Blocks(self.sizes, 1) if self.sizes else None

    def __len__(self):
        return len(self.rows)

    def sample(self, index, *, seed=0):
        media = [MediaItem(kind, f"{index}.mp4") for kind in self.rows[index]]
        return Sample(str(index), [Message("assistant", [*media, "text"])])

    def key(self, index):
        return str(index)

    def missing(self):
        return []


def place(index, position=0):
    return SampleRef("rows", index, 0, position)


@given(
    rows=st.lists(st.sampled_from(KINDS), min_size=1, max_size=40),
    position=st.integers(0, 10**9),
    data=st.data(),
)
def test_fills_are_different_samples_of_the_same_kinds_while_there_are_any(rows, position, data):
    index = data.draw(st.integers(0, len(rows) - 1))
    first, *fills = candidates(Rows(rows), place(index, position), seed=3)
    assert first == index
    assert len({first, *fills}) == 1 + len(fills)
    assert len(fills) == min(MAX_FILLS, len(rows) - 1)
    num_alike = sum(row == rows[index] for row in rows) - 1
    alike = [rows[fill] == rows[index] for fill in fills]
    assert alike == [number < num_alike for number in range(len(fills))]


def test_the_order_of_kinds_does_not_make_another_modality():
    rows = [("video", "audio"), ("video",), ("audio", "video")]
    assert next(iter(list(candidates(Rows(rows), place(0), seed=1))[1:])) == 2


def test_fills_depend_on_seed_and_place_alone():
    reader = Rows([("video",)] * 1000)
    fills = [list(candidates(reader, place(5, position), seed=3)) for position in range(50)]
    assert fills == [list(candidates(reader, place(5, position), seed=3)) for position in range(50)]
    assert len({tuple(found) for found in fills}) == 50
    assert fills[0] != list(candidates(reader, place(5, 0), seed=4))


def test_a_fill_comes_from_the_open_shard_if_that_has_the_same_kinds():
    rows = [("video",), ("audio",), ("video",)] + [("video",)] * 97
    reader = Rows(rows, sizes=(3, 97))
    _, near, *far = candidates(reader, place(0, 8), seed=1)
    assert near == 2
    assert all(index > 2 for index in far)


def test_what_filled_a_place_comes_first_and_what_could_not_is_not_tried_again():
    reader = Rows([("video",)] * 30)
    fresh = list(candidates(reader, place(4, 9), seed=1))
    known = [skip(index, position=9, filled_by=fresh[2]) for index in fresh[:2]]
    again = list(candidates(reader, place(4, 9), seed=1, known=known))
    assert again == fresh[2:]


# --- the record


def skip(index, *, position=0, filled_by=None, dataset="rows"):
    return Skip(dataset, f"key-{index}", f"{index}.mp4", "broken", position, index, filled_by)


def test_the_record_is_read_back_in_the_order_of_the_attempts(tmp_path):
    path = tmp_path / "skipped.jsonl"
    assert read_record(path) == {}
    first, second = skip(3, position=5, filled_by=9), skip(7, position=5, filled_by=9)
    other = skip(3, position=5, filled_by=1, dataset="valid")
    write_record(path, [first, second], step=1)
    write_record(path, [other], step=2)
    assert read_record(path) == {("rows", 5): (first, second), ("valid", 5): (other,)}
    line = json.loads(path.read_text().splitlines()[0])
    assert line == {
        "step": 1, "dataset": "rows", "key": "key-3", "path": "3.mp4", "reason": "broken",
        "position": 5, "index": 3, "filled_by": 9,
    }  # fmt: skip


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_a_kill_cut_off_costs_itself_alone(tmp_path, cut):
    path = tmp_path / "skipped.jsonl"
    write_record(path, [skip(1, position=1)], step=1)
    whole = path.read_bytes()
    write_record(path, [skip(2, position=2)], step=2)
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    write_record(path, [skip(3, position=3)], step=3)
    assert sorted(position for _, position in read_record(path)) == [1, 3]


# --- the mixture


@pytest.fixture
def make_data(table, media_dir, make_encoder):
    def make(record=None):
        readers = {"clips": webvid(table, media_dir)}
        return MixtureDataset(readers, encoder=make_encoder(), seed=5, record=record)

    return make


def clip(index, position):
    return SampleRef("clips", index, 0, position)


def recorded(*indices, position, filled_by):
    return {
        ("clips", position): tuple(
            skip(index, position=position, filled_by=filled_by, dataset="clips")
            for index in indices
        )
    }


def test_a_recorded_place_is_filled_as_before_though_its_file_is_good(make_data):
    record = recorded(0, position=7, filled_by=4)
    sample = make_data(record)[clip(0, 7)]
    assert sample.key == "page/4"
    assert sample.skips == record["clips", 7]
    # Only at that place, and only for that sample.
    assert make_data(record)[clip(0, 8)].key == "page/0"
    assert make_data(record)[clip(1, 7)].key == "page/1"


def test_a_recorded_fill_that_is_broken_by_now_is_recorded_too_and_the_next_one_taken(make_data):
    record = recorded(0, position=7, filled_by=BROKEN)
    sample = make_data(record)[clip(0, 7)]
    old, new = sample.skips
    assert (old.index, old.reason) == (0, "broken")
    assert (new.index, new.path.rsplit("/", 1)[1]) == (BROKEN, f"{BROKEN}.mp4")
    used = int(sample.key.removeprefix("page/"))
    assert used in set(range(NUM_CLIPS)) - {0, BROKEN}
    assert old.filled_by == new.filled_by == used


def test_skips_name_what_took_the_place(make_data):
    sample = make_data()[clip(BROKEN, 3)]
    (found,) = sample.skips
    assert (found.index, f"page/{found.filled_by}") == (BROKEN, sample.key)
    assert make_data({("clips", 3): sample.skips})[clip(BROKEN, 3)].key == sample.key


def test_missing_files_alone_are_a_mistake_of_the_configuration(
    table, media_dir, make_encoder, tmp_path
):
    write_table(tmp_path / "t.csv", [(str(i), "gone", "nowhere") for i in range(20)])
    reader = webvid(tmp_path / "t.csv", media_dir)
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(), seed=1)
    with pytest.raises(ConfigError) as caught:
        data[clip(0, 0)]
    said = str(caught.value)
    assert said.startswith(f"datasets.clips.media: {media_dir}: none of 20 files looked for")
    assert f"{media_dir / 'nowhere' / '0.mp4'}, " in said
    assert said.count(".mp4") == 6
    assert "video-llama data check" in said


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_data_set_of_which_half_the_files_are_missing_never_stops_by_chance(
    tmp_path, media_dir, make_encoder, num_workers
):
    pages = ["page", "nowhere"]
    write_table(tmp_path / "t.csv", [("0", "a clip", pages[i % 2]) for i in range(200)])
    reader = webvid(tmp_path / "t.csv", media_dir)
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(), seed=1)
    places = [clip(position % 200, position) for position in range(400)]
    loader = DataLoader(data, sampler=places, batch_size=None, num_workers=num_workers)
    samples = list(loader)
    assert [sample.position for sample in samples] == list(range(400))
    # Places at which the five candidates after the one meant are missing too: 1 of 64.
    assert max(len(sample.skips) for sample in samples) >= 6


def test_a_crash_of_the_decoder_is_a_skip_like_any_other(make_data):
    data = make_data()
    plain = data.encoder.reader
    supervised = SupervisedLoader(Unruly(), timeout_s=60)

    def load_all(requests):
        if requests[0].item.path.endswith("/0.mp4"):
            crashing = dataclasses.replace(requests[0].item, path="segfaults.mp4")
            return supervised.load_all([dataclasses.replace(requests[0], item=crashing)])
        return plain.load_all(requests)

    data.encoder.reader = type("Reader", (), {"load_all": staticmethod(load_all)})()
    sample = data[clip(0, 1)]
    supervised.close()
    assert sample.skips[0].reason == "the decoder crashed (signal 11)"
    assert sample.key != "page/0"
