"""Lengths are counted without opening media, once, and kept in files that are checked."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest
from shard_files import write_tar
from tables import webvid

from video_llama.common.errors import ConfigError
from video_llama.conversation.templates import get_template
from video_llama.datasets import lengths as counted
from video_llama.datasets.length_files import encoding_identity, lengths_of, read_lengths
from video_llama.datasets.length_order import POOLS, SampleLengths
from video_llama.datasets.lengths import Counting, count_lengths
from video_llama.datasets.llava_conversations import LlavaConversations
from video_llama.datasets.shards import Shards


def said(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


ROWS = [
    {"id": "text", "conversations": said("Why?", "So.")},
    {"id": "clip", "video": "0.mp4", "conversations": said("<video>Why?", "So.")},
    {"id": "picture", "image": "gone.jpg", "conversations": said("<image>Why?", "So.")},
    {"id": "row", "image": "gone.jpg", "conversations": said("Why?", "So.")},
    {"id": "two", "video": ["0.mp4", "gone.mp4"], "conversations": said("<video><video>?", "No.")},
]


@pytest.fixture
def reader_of(tmp_path, media_dir):
    def make(rows=ROWS, name="tune"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rows))
        config = LlavaConversations.Config(annotations=str(path), media=str(media_dir / "page"))
        return LlavaConversations(config, name=name)

    return make


def test_a_length_is_that_of_the_encoded_sample_and_no_file_is_opened(
    reader_of, make_encoder, media_dir
):
    found = count_lengths(reader_of(), counting=Counting(make_encoder()))
    # A token a character in the template's text, one for <s>, 4 slots a clip or picture here.
    plain = len("###Human: Why?###Assistant: So.###") + 1
    marks = len("<Video></Video>")
    two = len("###Human: <Video></Video><Video></Video> ?###Assistant: No.###") + 1 + 8
    assert list(found.positions[:3]) == [plain, plain + marks + 1 + 4, plain + marks + 1 + 4]
    assert found.positions[4] == two


def test_a_clip_that_is_there_has_the_length_that_was_counted(reader_of, make_encoder):
    encoder, reader = make_encoder(), reader_of()
    sample = reader.sample(1)
    read = encoder.encode(sample, encoder.load_media(sample))
    found = count_lengths(reader, counting=Counting(encoder))
    assert len(read.input_ids) == found.positions[1]


def test_a_pool_is_that_of_the_longest_medium(reader_of, make_encoder, specs):
    def pools(rows, **slots):
        encoder = make_encoder()
        encoder.specs = {
            name: spec.__class__(**{**vars(spec), "slots": slots.get(name, spec.slots)})
            for name, spec in specs.items()
        }
        found = count_lengths(reader_of(rows), counting=Counting(encoder))
        return [POOLS[number] for number in found.pools]

    assert pools([ROWS[0], ROWS[1], ROWS[2]]) == ["text", "video", "image"]
    mixed = {
        "video": "0.mp4",
        "image": ["1.jpg"] * 3,
        "conversations": said("<image><image><image><video>?", "x"),
    }
    # A picture is one step, a clip four: the single clip is longer than any single picture.
    assert pools([mixed], video=lambda num_steps: num_steps) == ["video"]
    assert pools([mixed], video=lambda num_steps: 9 - num_steps) == ["image"]


def test_a_row_nobody_can_read_belongs_to_the_largest_pool(reader_of, make_encoder):
    rows = [ROWS[3], ROWS[1], ROWS[4], ROWS[0]]
    found = count_lengths(reader_of(rows), counting=Counting(make_encoder()))
    assert (POOLS[found.pools[0]], found.positions[0]) == ("video", 1)


def test_a_row_nobody_can_read_is_of_the_kind_its_data_set_has(table, media_dir, make_encoder):
    table.write_text(table.read_text() + "9,,page\n")
    found = count_lengths(webvid(table, media_dir), counting=Counting(make_encoder()))
    assert {POOLS[number] for number in found.pools} == {"video"}


def test_a_sample_too_long_for_the_context_counts_as_the_context(reader_of, make_encoder):
    many = {"id": "x", "conversations": said("?" * 300, "x")}
    found = count_lengths(reader_of([many]), counting=Counting(make_encoder(max_len=100)))
    assert list(found.positions) == [100]


def test_media_without_a_branch_stop_the_counting(reader_of, make_encoder):
    encoder = make_encoder()
    encoder.routes = {}
    with pytest.raises(ConfigError, match="holds video, but no branch takes it"):
        count_lengths(reader_of(), counting=Counting(encoder))


def test_processes_count_what_one_counts(reader_of, make_encoder, monkeypatch):
    monkeypatch.setattr(counted, "SPAN", 2)
    monkeypatch.setattr(counted, "MANY", 4)
    encoder, reader = make_encoder(), reader_of()
    alone = count_lengths(reader, counting=Counting(encoder))
    several = count_lengths(reader, counting=Counting(encoder, num_workers=2))
    assert list(several.positions) == list(alone.positions)
    assert list(several.pools) == list(alone.pools)


# --- kept on disk


@pytest.fixture
def count_calls(monkeypatch):
    """How often anything was counted."""
    calls = []

    def counting(reader, *, counting):
        calls.append(reader.name)
        return count_lengths(reader, counting=counting)

    monkeypatch.setattr("video_llama.datasets.length_files.count_lengths", counting)
    return calls


def test_lengths_are_counted_once(reader_of, make_encoder, tmp_path, count_calls):
    first = lengths_of(reader_of(), counting=Counting(make_encoder()), folder=tmp_path / "kept")
    again = lengths_of(reader_of(), counting=Counting(make_encoder()), folder=tmp_path / "kept")
    assert count_calls == ["tune"]
    assert again.positions.tolist() == first.positions.tolist()
    assert again.pools.tolist() == first.pools.tolist()
    (path,) = (tmp_path / "kept").iterdir()
    assert path.suffix == ".lengths"


@pytest.mark.parametrize("what", ["rows", "template", "slots", "max_len", "max_samples"])
def test_what_changes_lengths_is_another_file(
    reader_of, make_encoder, tmp_path, count_calls, specs, what
):
    def count(reader, encoder):
        return lengths_of(reader, counting=Counting(encoder), folder=tmp_path / "kept")

    count(reader_of(), make_encoder())
    reader, encoder = reader_of(), make_encoder(max_len=100 if what == "max_len" else 200)
    if what == "rows":
        reader = reader_of([*ROWS[:-1], {"conversations": said("More?", "x")}])
    if what == "max_samples":
        config = LlavaConversations.Config(**{**vars(reader.config), "max_samples": 3})
        reader = LlavaConversations(config, name="tune")
    if what == "template":
        template = get_template("vicuna_v1", frame_times=False)
        encoder.text = type(encoder.text)(template, encoder.text.tokenizer, 200)
    if what == "slots":
        video = specs["video"]
        more = type(video)(**{**vars(video), "slots": lambda num_steps: 5})
        encoder.specs = {**specs, "video": more}
    count(reader, encoder)
    assert len(count_calls) == 2
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_moving_annotations_and_media_changes_nothing(
    reader_of, make_encoder, tmp_path, media_dir, count_calls
):
    reader = reader_of()
    folder = tmp_path / "kept"
    lengths_of(reader, counting=Counting(make_encoder()), folder=folder)
    shutil.copytree(media_dir, tmp_path / "media")
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "tune.json", tmp_path / "moved")
    config = LlavaConversations.Config(
        annotations=str(tmp_path / "moved"), media=str(tmp_path / "media" / "page")
    )
    moved = LlavaConversations(config, name="tune")
    lengths_of(moved, counting=Counting(make_encoder()), folder=folder)
    assert count_calls == ["tune"]


@pytest.mark.parametrize("damage", ["byte", "cut off", "no json", "empty", "of another"])
def test_a_file_that_is_not_what_it_is_called_is_counted_anew(
    reader_of, make_encoder, tmp_path, count_calls, caplog, damage
):
    def count(reader):
        return lengths_of(reader, counting=Counting(make_encoder()), folder=tmp_path / "kept")

    expected = count(reader_of())
    (path,) = (tmp_path / "kept").iterdir()
    content = path.read_bytes()
    if damage == "of another":
        other = [*ROWS[:-1], {"conversations": said("A much longer question?", "x")}]
        count(reader_of(other))
        (second,) = set((tmp_path / "kept").iterdir()) - {path}
        path.write_bytes(second.read_bytes())
        reader_of()
    changed = bytearray(content)
    changed[-6] ^= 1
    contents = {
        "byte": bytes(changed),
        "cut off": content[:-3],
        "no json": b"lengths\n",
        "empty": b"",
    }
    if damage in contents:
        path.write_bytes(contents[damage])
    num_calls = len(count_calls)
    with caplog.at_level(logging.WARNING):
        found = count(reader_of())
    assert len(count_calls) == num_calls + 1
    assert found.positions.tolist() == expected.positions.tolist()
    assert [str(path) in text for text in caplog.messages if "counted anew" in text] == [True]
    caplog.clear()
    count(reader_of())
    assert not [text for text in caplog.messages if "counted anew" in text]


def test_a_folder_that_cannot_be_written_costs_a_warning(reader_of, make_encoder, tmp_path, caplog):
    (tmp_path / "kept").write_text("a file, where a folder should be")
    found = lengths_of(reader_of(), counting=Counting(make_encoder()), folder=tmp_path / "kept")
    assert len(found.positions) == len(ROWS)
    assert any("cannot be kept" in text for text in caplog.messages)


def test_a_file_of_lengths_is_read_as_its_docstring_says(reader_of, make_encoder, tmp_path):
    lengths_of(reader_of(), counting=Counting(make_encoder()), folder=tmp_path / "kept")
    (path,) = (tmp_path / "kept").iterdir()
    line, _, body = path.read_bytes().partition(b"\n")
    head = json.loads(line)
    found = read_lengths(path, identity=head["identity"], num=len(ROWS))
    assert list(np.frombuffer(body[:20], "<i4")) == found.positions.tolist()
    assert list(body[20:]) == found.pools.tolist()


def test_tokenizers_that_cut_text_otherwise_are_told_apart(make_encoder, tokenizer):
    encoder = make_encoder()
    before = encoding_identity(encoder)

    class Pairs:
        size = 400
        special = ()

        def encode(self, text):
            run = tokenizer.engine.encode(text[::2])
            return type(run)(run.ids, [(2 * a, 2 * b) for a, b in run.offsets])

    other = dataclasses.replace(tokenizer, engine=Pairs())
    encoder.text = type(encoder.text)(encoder.text.template, other, encoder.text.max_len)
    assert encoding_identity(encoder) != before
    assert encoding_identity(make_encoder()) == before


def test_shards_are_known_by_their_checksums(tmp_path, make_encoder, count_calls):
    def reader(text):
        row = json.dumps({"messages": said(text, "x")}).encode()
        folder = tmp_path / text
        folder.mkdir(exist_ok=True)
        write_tar(folder / "0.tar", {"a.json": row})
        return Shards(Shards.Config(shards=str(folder / "0.tar")), name="packed")

    for text in ("one", "one", "two"):
        counting = Counting(make_encoder())
        found = lengths_of(reader(text), counting=counting, folder=tmp_path / "kept")
        assert isinstance(found, SampleLengths)
    assert count_calls == ["packed", "packed"]
