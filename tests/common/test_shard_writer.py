from __future__ import annotations

import json
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from video_llama.common.shard_writer import (
    TensorSpec,
    plan_shards,
    write_index,
    write_shard,
)
from video_llama.common.state_files import read_state

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


def specs_of(tensors):
    return {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in tensors.items()}


def write(folder, tensors, *, max_bytes):
    shards = plan_shards(specs_of(tensors), max_bytes=max_bytes)
    for shard in shards:
        write_shard(folder, shard, read=tensors.__getitem__, on_tensor=lambda name: None)
    write_index(folder, shards)
    return shards


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), min_size=1, max_size=8),
    st.integers(1, 400),
)
def test_safetensors_reads_what_was_written_bit_for_bit(tmp_path_factory, sides, max_bytes):
    folder = tmp_path_factory.mktemp("shards")
    tensors = {
        f"layer.{i}.weight": torch.randn(shape).to(dtype) for i, (shape, dtype) in enumerate(sides)
    }
    write(folder, tensors, max_bytes=max_bytes)
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)
    state = read_state(folder)
    assert set(state) == set(tensors)


def test_files_are_named_and_marked_as_transformers_wants_them(tmp_path):
    write(tmp_path, {name: torch.zeros(4) for name in "abc"}, max_bytes=32)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert index["weight_map"] == {"a": first, "b": first, "c": second}
    assert index["metadata"]["total_size"] == 48
    with safe_open(tmp_path / first, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_single_file_has_no_index(tmp_path):
    write(tmp_path, {"a": torch.zeros(4)}, max_bytes=100)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_tensor_larger_than_a_file_stands_alone():
    specs = {"a": TensorSpec((2,), torch.float32), "b": TensorSpec((100,), torch.float32)}
    assert [shard.names for shard in plan_shards(specs, max_bytes=64)] == [("a",), ("b",)]


def test_one_tensor_is_held_at_a_time(tmp_path):
    specs = {str(i): TensorSpec((1000,), torch.float32) for i in range(20)}
    alive: set[str] = set()
    most = 0

    def read(name):
        nonlocal most
        tensor = torch.zeros(1000)
        alive.add(name)
        weakref.finalize(tensor, alive.discard, name)
        most = max(most, len(alive))
        return tensor

    for shard in plan_shards(specs, max_bytes=40_000):
        write_shard(tmp_path, shard, read=read, on_tensor=lambda name: None)
    assert most == 1


def test_a_write_that_breaks_leaves_no_file_under_the_final_name(tmp_path):
    (shard,) = plan_shards({"a": TensorSpec((4,), torch.float32)}, max_bytes=100)

    def read(name):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_shard(tmp_path, shard, read=read, on_tensor=lambda name: None)
    assert not shard.is_done(tmp_path)
    assert not (tmp_path / shard.file).exists()


def test_a_cut_off_file_does_not_count_as_done(tmp_path):
    (shard,) = write(tmp_path, {"a": torch.zeros(100)}, max_bytes=1000)
    assert shard.is_done(tmp_path)
    whole = (tmp_path / shard.file).read_bytes()
    (tmp_path / shard.file).write_bytes(whole[:-1])
    assert not shard.is_done(tmp_path)
