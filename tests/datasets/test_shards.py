"""Tars are read in the house's order, from a disk, by http or through a pipe; damage is named."""

import contextlib
import http.server
import json
import os
import pickle
import threading
from pathlib import Path

import pytest
import torch
from shard_files import cc_sbu, packed, picture, write_caption_tars, write_tar
from torch.utils.data import DataLoader

from video_llama.common.errors import ConfigError, MediaError
from video_llama.datasets.collate import Collator
from video_llama.datasets.mixture import MixtureDataset
from video_llama.datasets.shard_set import INDEX_SUFFIX
from video_llama.datasets.stream import Plan, PlanSampler, Share
from video_llama.processors.shard_files import MAX_OPEN, ShardFiles

SIZES = (5, 3, 6, 4)


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """A user's cache that belongs to the test."""
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "video_llama"


@pytest.fixture
def tars(tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    return write_caption_tars(folder, sizes=SIZES)


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves a folder, parts of files too, and writes down what it sent."""

    protocol_version = "HTTP/1.1"
    folder: Path
    knows_ranges = True
    sent: list[tuple[str, int]]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        file = self.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        wanted = self.headers.get("Range") if self.knows_ranges else None
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.sent.append((file.name, len(data)))
            self.wfile.write(data)

    def log_message(self, *args):
        return


@contextlib.contextmanager
def serve(folder, *, knows_ranges=True):
    members = {"folder": folder, "knows_ranges": knows_ranges, "sent": []}
    handler = type("Handler", (RangeHandler,), members)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.sent
    finally:
        server.shutdown()
        server.server_close()


def captions(reader):
    return [reader.sample(i).messages[-1].text for i in range(len(reader))]


def all_bytes(reader, files):
    return [files.read(reader.sample(i).media[0].member) for i in range(len(reader))]


# --- the published layout


def test_pictures_and_captions_of_published_tars_are_read(tars):
    reader = cc_sbu(tars)
    assert reader.missing() == []
    assert captions(reader) == [f"picture number {i}" for i in range(sum(SIZES))]
    assert reader.key(5) == "00001/000010000"
    assert reader.blocks.sizes == SIZES
    assert reader.sample(0).form == "caption"
    assert all_bytes(reader, ShardFiles()) == [picture(i) for i in range(sum(SIZES))]


def test_a_prompt_makes_the_caption_an_answer(tars):
    roles = [m.role for m in cc_sbu(tars, prompts=("What?",)).sample(0).messages]
    assert roles == ["user", "assistant"]


def test_samples_can_be_cut_off_inside_a_shard(tars):
    reader = cc_sbu(tars, max_samples=6)
    assert (len(reader), reader.blocks.sizes) == (6, (5, 1, 0, 0))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.json": b'{"caption": "a dog"}'}, "holds no picture"),
        ({"a.jpg": picture(1)}, "the caption is empty"),
        ({"a.jpg": picture(1), "a.json": b'{"caption": "a'}, "the caption is empty"),
        ({"a.jpg": picture(1), "a.json": b'{"caption": null}'}, "the caption is empty"),
    ],
)
def test_a_sample_that_lacks_something_costs_only_itself(tmp_path, files, said):
    whole = {"b.jpg": picture(2), "b.json": b'{"caption": "a cat"}'}
    reader = cc_sbu(str(write_tar(tmp_path / "0.tar", {**files, **whole})))
    assert reader.missing() == []
    with pytest.raises(MediaError, match=f"0.tar a: {said}"):
        reader.sample(0)
    assert reader.sample(1).messages[0].text == "a cat"


# --- order


@pytest.fixture
def batches(tars, make_encoder, specs):
    """Keys of a run's batches from a step on, in the order an optimizer sees them."""

    def run(world_size, *, num_workers=0, start=0, num_steps=6):
        reader = cc_sbu(tars, window=2)
        mixture = MixtureDataset({"pictures": reader}, encoder=make_encoder(), seed=5)
        plan = Plan(
            seed=5,
            datasets={"pictures": Share(len(reader), 1.0, reader.blocks)},
            batch_size=4 // world_size,
            world_size=world_size,
        )
        streams = [
            iter(
                DataLoader(
                    mixture,
                    batch_sampler=PlanSampler(
                        plan, rank=rank, start_step=start, num_steps=num_steps - start
                    ),
                    collate_fn=Collator(specs, pad_id=3),
                    num_workers=num_workers,
                )
            )
            for rank in range(world_size)
        ]
        steps = [[next(stream).batch for stream in streams] for _ in range(start, num_steps)]
        keys = [[key for batch in step for key in batch.keys] for step in steps]
        pixels = [torch.cat([batch.media["video"].raw for batch in step]) for step in steps]
        return keys, torch.stack(pixels)

    return run


def test_ranks_workers_and_a_resume_inside_a_shard_read_the_same(batches):
    keys, pixels = batches(1)
    assert len({key for step in keys[:4] for key in step}) == 16
    for world_size, num_workers, start in ((2, 0, 0), (4, 0, 0), (2, 3, 0), (1, 1, 3), (2, 0, 1)):
        found, seen = batches(world_size, num_workers=num_workers, start=start)
        assert found == keys[start:]
        assert torch.equal(seen, pixels[start:])


def test_a_resume_asks_a_server_only_for_what_it_uses(tars, tmp_path, cache_home):
    with serve(tmp_path / "tars") as (url, sent):
        reader = cc_sbu(f"{url}/{{00000..00003}}.tar", window=1)
        assert reader.missing() == []
        plan = Plan(seed=1, datasets={"x": Share(len(reader), 1, reader.blocks)}, batch_size=2)
        sent.clear()
        files = ShardFiles()
        wanted = [reader.sample(ref.index).media[0].member for ref in plan.step(4)]
        assert [len(files.read(member)) for member in wanted] == [m.size for m in wanted]
        assert [size for _, size in sent] == [member.size for member in wanted]


def test_files_stay_bounded_however_many_shards_there_are(tmp_path):
    pattern = write_caption_tars(tmp_path, sizes=(1,) * (3 * MAX_OPEN))
    reader, files = cc_sbu(pattern), ShardFiles()
    reader.missing()
    before = len(list(Path("/proc/self/fd").iterdir()))
    all_bytes(reader, files)
    assert len(list(Path("/proc/self/fd").iterdir())) - before == MAX_OPEN
    assert len(reader._set._indexes) <= 2 * reader.config.window


def test_a_place_that_cannot_be_used_is_filled_from_the_same_shard(tmp_path, make_encoder):
    whole = {f"{i}.jpg": picture(i) for i in range(8)}
    rows = {f"{i}.json": b'{"caption": "a dog"}' for i in range(8)}
    for shard in ("a", "b"):
        files = dict(sorted({**whole, **rows}.items()))
        if shard == "a":
            files["3.jpg"] = b"broken"
        write_tar(tmp_path / f"{shard}.tar", files)
    reader = cc_sbu(f"{tmp_path}/{{a,b}}.tar")
    mixture = MixtureDataset({"pictures": reader}, encoder=make_encoder(), seed=5)
    plan = Plan(seed=1, datasets={"pictures": Share(16, 1, reader.blocks)}, batch_size=16)
    samples = [mixture[ref] for step in range(3) for ref in plan.step(step)]
    filled = [sample for sample in samples if sample.skips]
    assert [sample.skips[0].key for sample in filled] == ["a/3"] * 3
    assert all(sample.key.startswith("a/") for sample in filled)
    assert filled[0].skips[0].path.endswith("a.tar/3.jpg")


def test_a_reader_with_open_shards_can_be_sent_to_a_worker(tars):
    reader, files = cc_sbu(tars), ShardFiles()
    before = all_bytes(reader, files)
    reader, files = pickle.loads(pickle.dumps((reader, files)))
    assert all_bytes(reader, files) == before


# --- damage


@pytest.mark.parametrize("kept", [0, 511, 2048, 3000])
def test_a_shard_that_ends_early_is_named_before_training(tmp_path, kept):
    pattern = write_caption_tars(tmp_path, sizes=(3, 3))
    path = tmp_path / "00001.tar"
    path.write_bytes(path.read_bytes()[:kept])
    (problem,) = cc_sbu(pattern).missing()
    assert problem.startswith(f"datasets.pictures.shards: {path}: ")
    assert "get it again" in problem


def test_a_shard_cut_off_after_it_was_indexed_is_named_with_both_sizes(tars, tmp_path):
    assert cc_sbu(tars).missing() == []
    path = tmp_path / "tars" / "00002.tar"
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.truncate(size - 1000)
    (problem,) = cc_sbu(tars).missing()
    assert f"{path}: {size - 1000:,} bytes, its index says {size:,}" in problem


def test_a_shard_changed_after_it_was_indexed_is_named(tars, tmp_path):
    cc_sbu(tars).missing()
    path = tmp_path / "tars" / "00002.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    (problem,) = cc_sbu(tars).missing()
    assert f"{path}: its bytes are not those its index was made of" in problem


def test_a_shard_that_was_only_touched_is_read_once_more_and_believed(tars, tmp_path):
    cc_sbu(tars).missing()
    path = tmp_path / "tars" / "00002.tar"
    index = path.with_name(path.name + INDEX_SUFFIX)
    # Two moments of some file systems are milliseconds apart.
    os.utime(index, ns=(0, 0))
    assert cc_sbu(tars).missing() == []
    assert index.stat().st_mtime_ns > 0


def test_a_shard_damaged_during_training_costs_the_samples_it_hits(tars, tmp_path):
    reader, files = cc_sbu(tars), ShardFiles()
    member = reader.sample(0).media[0].member
    with (tmp_path / "tars" / "00000.tar").open("rb+") as file:
        file.seek(member.offset + 40)
        file.write(b"\xff\xff\xff")
    with pytest.raises(MediaError, match="not those that its index was made of"):
        files.read(member)
    assert files.read(reader.sample(1).media[0].member) == picture(1)


def test_missing_shards_are_named_together_with_their_neighbours(tars, tmp_path):
    reader = cc_sbu(f"{tmp_path}/tars/{{00002..00005}}.tar")
    problems = reader.missing()
    assert len(problems) == 2
    assert f"there is no {tmp_path}/tars/00004.tar; nearest in" in problems[0]


def test_something_that_is_no_tar_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"<html>" * 500)
    assert "no whole, uncompressed tar" in cc_sbu(str(tmp_path / "a.tar")).missing()[0]


def test_an_index_that_was_cut_off_is_named(tars, tmp_path):
    cc_sbu(tars).missing()
    index = tmp_path / "tars" / f"00000.tar{INDEX_SUFFIX}"
    index.write_bytes(index.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="holds 4 samples and speaks of 5; delete it"):
        cc_sbu(tars).sample(0)


# --- other places


def test_shards_behind_http_are_read_by_ranges(tars, tmp_path, cache_home):
    with serve(tmp_path / "tars") as (url, sent):
        reader = cc_sbu(f"{url}/{{00000..00003}}.tar")
        assert all_bytes(reader, ShardFiles()) == [picture(i) for i in range(sum(SIZES))]
        assert cc_sbu(f"{url}/{{00000..00003}}.tar").missing() == []
        (tmp_path / "tars" / "00001.tar").write_bytes(b"short")
        (problem,) = cc_sbu(f"{url}/{{00000..00003}}.tar").missing()
        assert "00001.tar: 5 bytes, its index says" in problem
    assert len(list((cache_home / "indexes").glob(f"*{INDEX_SUFFIX}"))) == len(SIZES)


def test_an_index_beside_a_shard_on_a_server_spares_the_shard(tars, tmp_path):
    cc_sbu(tars).missing()
    with serve(tmp_path / "tars") as (url, sent):
        assert len(cc_sbu(f"{url}/{{00000..00003}}.tar")) == sum(SIZES)
        assert all(name.endswith(INDEX_SUFFIX) for name, _ in sent)


def test_a_server_without_ranges_is_asked_once_for_each_shard(tars, tmp_path, cache_home):
    with serve(tmp_path / "tars", knows_ranges=False) as (url, sent):
        reader = cc_sbu(f"{url}/00000.tar")
        files = ShardFiles()
        assert all_bytes(reader, files) == [picture(i) for i in range(5)]
        size = (tmp_path / "tars" / "00000.tar").stat().st_size
        assert sum(number for _, number in sent) <= 2 * size


def test_shards_at_the_end_of_a_pipe_are_fetched_once_and_bounded(tars, tmp_path):
    log = tmp_path / "log"
    command = f"pipe:echo x >> {log}; cat {tmp_path}/tars/{{00000..00003}}.tar"
    reader = cc_sbu(command, index=str(tmp_path / "indexes"))
    assert reader.missing() == []
    log.unlink()
    spool = tmp_path / "spool"
    files = ShardFiles(spool=spool, max_spooled=2)
    assert all_bytes(reader, files) == [picture(i) for i in range(sum(SIZES))]
    assert len(log.read_text().split()) == len(SIZES)
    assert len(list(spool.glob("*.tar"))) == 2


def test_a_pipe_that_fails_is_named_with_its_command(tmp_path):
    (problem,) = cc_sbu(f"pipe:cat {tmp_path}/nothing.tar").missing()
    assert f"pipe:cat {tmp_path}/nothing.tar: cannot be fetched" in problem


def test_an_address_that_nobody_can_open_is_named():
    (problem,) = cc_sbu("nowhere://bucket/0.tar").missing()
    assert "nowhere://bucket/0.tar: cannot be fetched" in problem


def test_a_foreign_table_of_shards_is_named(tars, tmp_path):
    (tmp_path / "tars" / "shards.json").write_text('{"shardlist": []}')
    (problem,) = cc_sbu(str(tmp_path / "tars")).missing()
    assert "give the tars by a brace pattern" in problem


def test_a_pipe_that_ends_early_is_named_before_training(tars, tmp_path):
    (problem,) = cc_sbu(f"pipe:head -c 3000 {tmp_path}/tars/00000.tar").missing()
    assert "get it again" in problem


def test_indexes_go_to_the_cache_where_the_place_is_read_only(
    tars, tmp_path, cache_home, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cc_sbu(tars).missing() == []
    assert not list((tmp_path / "tars").glob(f"*{INDEX_SUFFIX}"))
    assert len(list((cache_home / "indexes").glob(f"*{INDEX_SUFFIX}"))) == len(SIZES)


# --- conversations written by others


def test_a_file_that_the_json_names_and_the_shard_lacks_costs_its_sample(tmp_path):
    part = {"type": "image", "image": "jpg"}
    for name in ("jpg", "png"):
        row = {
            "messages": [
                {
                    "role": "assistant",
                    "content": [{**part, "image": name}, {"type": "text", "text": "A."}],
                }
            ]
        }
        files = {"0.jpg": picture(0), "0.json": json.dumps(row).encode()}
        write_tar(tmp_path / f"{name}.tar", files)
    good = packed(tmp_path / "jpg.tar").sample(0)
    assert (good.key, good.form, good.media[0].kind) == ("jpg/0", "caption", "image")
    with pytest.raises(MediaError, match="the shard does not hold it .of this sample: jpg"):
        packed(tmp_path / "png.tar").sample(0)
