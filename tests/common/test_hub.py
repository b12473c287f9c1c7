"""A name of the hub or an address may stand for a path; what lies here wins; nothing is fetched."""

import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import HubRef, address, hub_ref, local_path, url_cache, way_to_get
from video_llama.common.state_files import read_state

COMMIT = "0123456789abcdef0123456789abcdef01234567"
URL = "https://example.org/files/eva_vit_g.pth?download=true"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A hub cache with lab/bridges: a file, a folder and a tag."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    repo = tmp_path / "hub" / "models--lab--bridges"
    snapshot = repo / "snapshots" / COMMIT
    (snapshot / "llama").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "refs" / "v1").write_text(COMMIT)
    save_file({"a": torch.ones(2)}, snapshot / "bridges.safetensors")
    save_file({"b": torch.ones(3)}, snapshot / "llama" / "model.safetensors")
    return snapshot


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lab/bridges", HubRef("lab/bridges")),
        ("lab/bridges/a/b.pth", HubRef("lab/bridges", path="a/b.pth")),
        ("hf://lab/bridges", HubRef("lab/bridges")),
        ("lab/bridges@v1", HubRef("lab/bridges", revision="v1")),
        ("hf://lab/bridges@v1/b.pth", HubRef("lab/bridges", path="b.pth", revision="v1")),
        ("lab/b@refs/pr/3/b.pth", HubRef("lab/b", path="b.pth", revision="refs/pr/3")),
        (
            "https://huggingface.co/lab/bridges/resolve/main/a/b.pth?download=true",
            HubRef("lab/bridges", path="a/b.pth"),
        ),
        ("https://huggingface.co/lab/b/tree/v1", HubRef("lab/b", revision="v1")),
        ("hf://ckpt/vicuna-7b", HubRef("ckpt/vicuna-7b")),
    ],
)
def test_names_of_the_hub_are_read(text, expected):
    assert hub_ref(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "/data/lab/bridges",
        "./lab/bridges",
        "../lab/bridges",
        "~/lab/bridges",
        "bridges.pth",
        "ckpt/vicuna-7b",
        "ckpt/released/eva.pth",
        "lab/bridges.pth",
        "lab/bridges/../../secret",
        "lab/bridges with spaces",
        "https://example.org/lab/bridges.pth",
    ],
)
def test_paths_and_other_addresses_are_not_names_of_the_hub(text):
    assert hub_ref(text) is None


def test_a_folder_that_exists_is_no_organisation(cache, monkeypatch):
    assert hub_ref("lab/bridges") is not None
    (cache.parents[3] / "lab").mkdir()
    assert hub_ref("lab/bridges") is None


WORD = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True).map(lambda word: f"x{word}")


@given(repo=st.tuples(WORD, WORD), path=st.lists(WORD, max_size=3), revision=WORD)
def test_a_name_of_the_hub_is_read_as_it_is_written(repo, path, revision):
    for ref in (
        HubRef("/".join(repo), path="/".join(path)),
        HubRef("/".join(repo), path="/".join(path), revision=revision),
    ):
        assert hub_ref(str(ref)) == ref
        assert hub_ref(Path(f"hf://{ref}")) == ref


def test_a_cached_file_is_found_by_its_name(cache):
    assert local_path("lab/bridges/bridges.safetensors") == cache / "bridges.safetensors"
    assert local_path("lab/bridges@v1/llama") == cache / "llama"
    assert local_path(f"lab/bridges@{COMMIT}") == cache


def test_a_cached_file_is_read_like_any_other(cache):
    assert set(read_state("hf://lab/bridges/bridges.safetensors")) == {"a"}
    assert set(read_state("lab/bridges/llama")) == {"b"}


def test_a_local_path_comes_before_the_cache(cache):
    mine = Path("lab/bridges")
    mine.mkdir(parents=True)
    assert local_path("lab/bridges") == mine


@pytest.mark.parametrize(
    "name", ["lab/other/a.pth", "lab/bridges/b.pth", "lab/bridges@v2/bridges.safetensors"]
)
def test_what_the_cache_lacks_is_a_missing_file_and_the_message_names_the_command(cache, name):
    assert not local_path(name).exists()
    with pytest.raises(CheckpointMismatch, match=f"`video-llama weights get {name}` fetches it"):
        read_state(name)


def test_an_address_is_looked_for_where_torch_hub_keeps_it(cache):
    kept = url_cache(URL)
    assert kept == cache.parents[3] / "torch" / "hub" / "checkpoints" / "eva_vit_g.pth"
    assert not local_path(URL).exists()
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert local_path(URL) == kept
    assert local_path(Path(URL)) == kept


def test_an_address_survives_being_a_path():
    assert address(Path(URL)) == URL


def test_a_path_has_no_way_to_be_fetched():
    assert way_to_get("ckpt/vicuna-7b") == ""
