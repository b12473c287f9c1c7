"""From real clips to batches: broken ones are named and replaced, cached ones are not opened."""

import dataclasses
import json
import shutil

import pytest
import torch
from shard_files import write_tar
from tables import BROKEN, NUM_CLIPS, webvid, write_table
from torch.utils.data import DataLoader

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.types import IGNORE_INDEX
from video_llama.datasets.collate import Collator
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.datasets.llava_conversations import LlavaConversations
from video_llama.datasets.mixture import MixtureDataset
from video_llama.datasets.sample_encoder import SampleEncoder
from video_llama.datasets.shards import Shards
from video_llama.datasets.stream import Plan, PlanSampler, SampleRef
from video_llama.datasets.video_instruct import VideoInstruct

GOOD = [i for i in range(NUM_CLIPS) if i != BROKEN]


@pytest.fixture
def make_data(table, media_dir, make_encoder):
    def make(*, cache=None, media=media_dir, seed=5, augment=None, **keys):
        readers = {"clips": webvid(table, media, **keys)}
        encoder = make_encoder(cache)
        return MixtureDataset(
            readers, encoder=encoder, seed=seed, augment={"clips": augment or "none"}
        )

    return make


def ref(index, *, position=0, pass_index=0):
    return SampleRef("clips", index, pass_index, position)


def text_of(sample):
    return "".join(chr(i - 10) if i >= 10 else "" for i in sample.input_ids)


def test_a_clip_becomes_bos_slots_and_a_supervised_caption(make_data):
    sample = make_data()[ref(0)]
    assert sample.slots == [0] + [1] * 4 + [0] * len("clip number 0###")
    assert text_of(sample) == "clip number 0###"
    assert sample.labels == [IGNORE_INDEX] * 5 + sample.input_ids[5:]
    assert sample.media[0].item.pixels.shape == (4, 3, 16, 16)
    assert sample.skips == ()


def test_a_clip_and_its_sound_go_to_their_branches(make_data):
    sample = make_data(streams=("video", "audio"))[ref(0)]
    assert [routed.branch for routed in sample.media] == ["video", "audio"]
    assert sample.slots[:7] == [0] + [1] * 4 + [2] * 2
    assert sample.media[1].item.mel.shape == (2, 1, 16, 25)


def test_a_broken_clip_is_named_and_its_place_filled(make_data, media_dir):
    sample = make_data()[ref(BROKEN, position=17)]
    assert sample.key in {f"page/{i}" for i in GOOD}
    skip = sample.skips[0]
    assert (skip.dataset, skip.key, skip.position) == ("clips", f"page/{BROKEN}", 17)
    assert skip.path == str(media_dir / "page" / f"{BROKEN}.mp4")
    assert "cannot be opened" in skip.reason


def test_what_fills_a_place_depends_on_the_place_alone(make_data):
    data, again = make_data(), make_data()
    filled = [data[ref(BROKEN, position=p)].key for p in range(12)]
    assert filled == [again[ref(BROKEN, position=p)].key for p in range(12)]
    assert len(set(filled)) > 1


def test_a_missing_clip_and_an_empty_caption_are_counted_too(media_dir, tmp_path, make_encoder):
    rows = [("9999", "gone", "page"), ("0", "", "page"), ("1", "good", "page")]
    write_table(tmp_path / "t.csv", rows)
    reader = webvid(tmp_path / "t.csv", media_dir)
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(), seed=1)
    reasons = {}
    for position in range(30):
        for index in (0, 1):
            sample = data[ref(index, position=position)]
            assert sample.key == "page/1"
            reasons.update({skip.key: skip.reason for skip in sample.skips})
    assert reasons == {"page/9999": "no such file", "page/0": "the caption is empty"}


def test_a_clip_without_sound_is_counted_if_sound_is_wanted(media_dir, tmp_path, make_encoder):
    write_table(tmp_path / "t.csv", [("silent", "no sound", "page"), ("1", "good", "page")])
    reader = webvid(tmp_path / "t.csv", media_dir, streams=("audio",))
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(), seed=1)
    sample = data[ref(0)]
    assert sample.key == "page/1"
    assert sample.skips[0].path.endswith("silent.mp4")


def test_a_data_set_of_broken_clips_stops_the_run_and_names_them(tmp_path, make_encoder, media_dir):
    rows = [("2", "broken", "page"), ("8", "gone", "page"), ("9", "gone", "page")]
    write_table(tmp_path / "t.csv", rows)
    reader = webvid(tmp_path / "t.csv", media_dir)
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(), seed=1)
    with pytest.raises(MediaError, match=r"3 samples in a row.*\n.*page/2"):
        data[ref(0)]


def test_a_caption_too_long_for_the_context_is_cut(media_dir, tmp_path, make_encoder):
    write_table(tmp_path / "t.csv", [("0", "a long caption " * 3, "page")])
    reader = webvid(tmp_path / "t.csv", media_dir)
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(max_len=20), seed=1)
    sample = data[ref(0)]
    assert len(sample.input_ids) == 20
    assert not sample.skips


def test_an_answer_too_long_for_the_context_is_counted(media_dir, tmp_path, make_encoder):
    rows = [
        {"video": f"page/{name}.mp4", "QA": [{"q": "what?", "a": answer}]}
        for name, answer in (("0", "a long answer " * 10), ("1", "short"))
    ]
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    keys = VideoInstruct.Config(annotations=str(tmp_path / "qa.json"), media=str(media_dir))
    reader = VideoInstruct(keys, name="clips")
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(max_len=100), seed=1)
    sample = data[ref(0)]
    assert sample.key == "page/1.mp4"
    assert "there are 100" in sample.skips[0].reason


def test_media_that_alone_fill_the_context_are_a_skip_where_samples_differ(
    tmp_path, media_dir, make_encoder
):
    def row(key, *clips):
        marks = "<video>" * len(clips)
        said = [{"from": "human", "value": f"{marks}What?"}, {"from": "gpt", "value": "x"}]
        return {"id": key, "video": list(clips), "conversations": said}

    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row("one", "0.mp4"), row("many", *["0.mp4"] * 30)]))
    config = LlavaConversations.Config(annotations=str(path), media=str(media_dir / "page"))
    reader = LlavaConversations(config, name="tune")
    # A clip has 4 slots here.
    data = MixtureDataset({"tune": reader}, encoder=make_encoder(max_len=120), seed=1)
    sample = data[SampleRef("tune", 1, 0, 0)]
    assert sample.key == "one"
    assert sample.skips[0].reason.startswith("many: its 30 media alone take 120 decoder positions")
    assert "model.max_txt_len is 120" in sample.skips[0].reason


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (("user",), "it ends with a question, and no answer is to be learnt"),
        (("user", "system"), "positions is to be learned"),
    ],
)
def test_a_sample_without_a_target_is_a_skip(tmp_path, make_encoder, roles, reason):
    good = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    bad = [{"role": role, "content": "Why?"} for role in roles]
    rows = {f"{n}.json": {"id": f"n{n}", "messages": said} for n, said in enumerate([good, bad])}
    write_tar(tmp_path / "0.tar", {name: json.dumps(row).encode() for name, row in rows.items()})
    reader = Shards(Shards.Config(shards=str(tmp_path / "0.tar")), name="packed")
    data = MixtureDataset({"packed": reader}, encoder=make_encoder(), seed=1)
    sample = data[SampleRef("packed", 1, 0, 0)]
    assert sample.key == "n0"
    (skip,) = sample.skips
    assert skip.key == "n1"
    assert reason in skip.reason


def test_media_without_a_branch_are_a_mistake_of_the_configuration(
    table, media_dir, make_encoder, specs
):
    encoder = make_encoder()
    encoder.specs = {"video": specs["video"]}
    reader = webvid(table, media_dir, streams=("audio",))
    with pytest.raises(ConfigError, match=r"datasets\.clips: holds audio, but no branch takes it"):
        MixtureDataset({"clips": reader}, encoder=encoder, seed=1)


def test_slots_that_alone_fill_the_context_are_found_at_start(table, media_dir, make_encoder):
    with pytest.raises(ConfigError, match=r"max_txt_len: 4 .*alone take 4"):
        MixtureDataset({"clips": webvid(table, media_dir)}, encoder=make_encoder(max_len=4), seed=1)


def test_a_crop_differs_between_passes_and_not_between_runs(make_data):
    def pixels(data, pass_index):
        return data[ref(0, pass_index=pass_index)].media[0].item.pixels

    data = make_data(augment="random_crop")
    again = make_data(augment="random_crop")
    assert torch.equal(pixels(data, 0), pixels(again, 0))
    assert not torch.equal(pixels(data, 0), pixels(data, 1))


# --- batches over ranks and workers


def batches(data, specs, *, rank=0, world_size=1, num_workers=0, num_steps=3):
    plan = Plan(
        seed=5,
        datasets={"clips": (NUM_CLIPS, 1.0)},
        batch_size=4 // world_size,
        world_size=world_size,
    )
    return list(
        DataLoader(
            data,
            batch_sampler=PlanSampler(plan, rank=rank, start_step=0, num_steps=num_steps),
            collate_fn=Collator(specs, pad_id=3),
            num_workers=num_workers,
        )
    )


def keys_of(loaded):
    return [list(b.batch.keys) for b in loaded]


def test_ranks_and_workers_read_the_same_samples(make_data, specs):
    alone = keys_of(batches(make_data(), specs))
    assert keys_of(batches(make_data(), specs, num_workers=2)) == alone
    ranks = [keys_of(batches(make_data(), specs, rank=r, world_size=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == alone


def test_skips_reach_the_main_process_from_its_workers(make_data, specs):
    loaded = batches(make_data(), specs, num_workers=2)
    skipped = [skip.key for b in loaded for skip in b.skips]
    # 12 places are two passes over 6 clips; what fills a place is another, thus good, clip
    assert skipped == [f"page/{BROKEN}"] * 2


def test_a_mistake_in_a_worker_is_still_a_mistake_of_the_configuration(make_data, specs):
    data = make_data()
    data.encoder.routes = {}
    with pytest.raises(ConfigError, match="holds video, but no branch takes it"):
        batches(data, specs, num_workers=1)


# --- the feature cache


def fill(cache, loaded, specs):
    """Put in what a frozen encoder might have made of every raw item."""
    for b in loaded:
        keys = {
            (item.branch, item.row): item.feature_key
            for item in b.batch.items
            if item.feature_key is not None
        }
        frontier = {}
        for name, given in b.batch.media.items():
            for index, row in enumerate(given.raw_rows.tolist()):
                shape = specs[name].frontier
                mean = given.raw[index].mean()
                frontier[keys[name, row]] = mean * torch.ones(
                    shape.num_steps, shape.num_tokens, shape.width
                )
        cache.add(frontier, times_s=b.times_s, stamps=b.stamps)
    cache.flush()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_second_pass_opens_no_file(make_data, specs, tmp_path, media_dir, num_workers):
    copy = tmp_path / "copy"
    shutil.copytree(media_dir, copy)
    cache = FeatureCache(tmp_path / "cache")
    data = make_data(cache=cache, media=copy, streams=("video", "audio"))
    first = batches(data, specs, num_workers=num_workers)
    assert all(b.batch.media["video"].cached is None for b in first)
    fill(cache, first, specs)
    for number in GOOD:
        (copy / "page" / f"{number}.mp4").unlink()
    second = batches(data, specs, num_workers=num_workers)
    assert keys_of(second) == keys_of(first)
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before.batch.input_ids, after.batch.input_ids)
        for name in ("video", "audio"):
            assert len(after.batch.media[name].raw) == 0
            means = before.batch.media[name].raw.flatten(1).mean(1)
            assert torch.allclose(after.batch.media[name].cached[:, 0, 0, 0], means)


def test_a_clip_of_one_frame_keeps_its_mask_through_the_cache(
    media_dir, tmp_path, make_encoder, specs
):
    write_table(tmp_path / "t.csv", [("one_frame", "short", "page")])
    reader = webvid(tmp_path / "t.csv", media_dir)
    cache = FeatureCache(tmp_path / "cache")
    data = MixtureDataset({"clips": reader}, encoder=make_encoder(cache), seed=1)
    collator = Collator(specs, pad_id=3)
    first = collator([data[ref(0)]])
    fill(cache, [first], specs)
    second = collator([data[ref(0)]])
    assert second.batch.media["video"].cached_mask.tolist() == [[True, False, False, False]]
    assert torch.equal(second.batch.media["video"].cached_mask, first.batch.media["video"].raw_mask)


def test_crops_and_cache_exclude_each_other(make_data, tmp_path):
    with pytest.raises(ConfigError, match="augment: none, or feature_cache: null"):
        make_data(cache=FeatureCache(tmp_path / "cache"), augment="random_crop")


@pytest.mark.parametrize("resize", ["pad_square", "short_side_crop"])
def test_crops_and_an_encoder_s_own_way_to_a_square_exclude_each_other(
    resize, table, media_dir, make_encoder, specs
):
    spec = dataclasses.replace(specs["video"].spec, resize=resize)
    branches = {**specs, "video": dataclasses.replace(specs["video"], spec=spec)}
    plain = make_encoder()
    encoder = SampleEncoder(branches, text=plain.text, reader=plain.reader, cache=None)
    readers = {"clips": webvid(table, media_dir)}
    MixtureDataset(readers, encoder=encoder, seed=1)
    with pytest.raises(ConfigError, match=f"clips.augment: .* 'video' is fed by resize: {resize}"):
        MixtureDataset(readers, encoder=encoder, seed=1, augment={"clips": "random_crop"})
    deaf = {"clips": webvid(table, media_dir, streams=("audio",))}
    MixtureDataset(deaf, encoder=encoder, seed=1, augment={"clips": "random_crop"})


def test_a_frame_policy_that_draws_is_refused_with_a_cache(make_encoder, specs, tmp_path):
    drawing = dataclasses.replace(specs["video"].spec, frame_policy="headtail")
    branches = {**specs, "video": dataclasses.replace(specs["video"], spec=drawing)}
    plain = make_encoder()
    with pytest.raises(ConfigError, match="'headtail' draws other frames"):
        SampleEncoder(
            branches, text=plain.text, reader=plain.reader, cache=FeatureCache(tmp_path / "cache")
        )
