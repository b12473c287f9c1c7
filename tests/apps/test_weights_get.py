"""`weights get` fetches what is asked for, shows it first, and takes nothing wrong for right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from common.file_server import Served, serving
from fake_hub import COMMIT, serve_repository
from huggingface_hub import constants
from tiny_project import write_project

from video_llama.apps.main import main
from video_llama.apps.weights_pieces import chosen_files
from video_llama.apps.weights_sources import SOURCES, Source, source_of
from video_llama.common.hub import address, hub_ref

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def web(server, tmp_path, monkeypatch):
    """A server with one published file, known by name; caches below the test's folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    server.files["/eva_vit_g.pth"] = Served(CONTENT)
    source = Source(f"{server.url}/eva_vit_g.pth", "eva_vit_g.pth", "vit_model", "free")
    monkeypatch.setitem(SOURCES, "eva_vit_g", source)
    return server


def get(*words, env=None, server=None):
    """Run the real command line with the hub at the test's server."""
    added = {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "video_llama.apps.main", "weights", "get", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "0", **added},
        timeout=600,
    )


def test_a_named_file_goes_into_the_cache_where_its_address_is_looked_for(web, tmp_path):
    assert main(["weights", "get", "eva_vit_g", "--yes"]) == 0
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "eva_vit_g.pth"
    assert kept.read_bytes() == CONTENT


def test_a_named_file_goes_where_the_user_wants_it(web, tmp_path):
    assert main(["weights", "get", "eva_vit_g", "--yes", "--to", "ckpt"]) == 0
    assert (tmp_path / "ckpt" / "eva_vit_g.pth").read_bytes() == CONTENT


def test_a_dry_run_shows_the_size_and_fetches_nothing(web, tmp_path, capsys):
    assert main(["weights", "get", "eva_vit_g", "--dry-run", "--to", "ckpt"]) == 0
    assert "1 files, 0.01 MB" in capsys.readouterr().out
    assert not (tmp_path / "ckpt").exists()
    assert web.ranges("/eva_vit_g.pth") == []


def test_without_a_terminal_and_without_yes_nothing_is_fetched(web, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: PTH123, SIM115
    assert main(["weights", "get", "eva_vit_g", "--to", "ckpt"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert web.ranges("/eva_vit_g.pth") == []


def test_a_file_that_is_there_is_not_fetched_again(web, capsys):
    words = ["weights", "get", "eva_vit_g", "--yes", "--to", "ckpt"]
    assert main(words) == main(words) == 0
    assert "everything that can be fetched is there" in capsys.readouterr().out
    assert len(web.ranges("/eva_vit_g.pth")) == 1


def test_half_a_file_in_the_place_is_named_and_left_alone(web, tmp_path, capsys):
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "eva_vit_g.pth").write_bytes(b"half")
    assert main(["weights", "get", "eva_vit_g", "--yes", "--to", "ckpt"]) == 2
    assert "4 bytes lie there, the published file has 10,240" in capsys.readouterr().err
    assert (tmp_path / "ckpt" / "eva_vit_g.pth").read_bytes() == b"half"


def test_an_unknown_name_lists_the_known_ones(capsys):
    assert main(["weights", "get", "eva_vit"]) == 2
    assert "did you mean 'eva_vit_g'" in capsys.readouterr().err


def test_without_a_name_the_list_is_printed(capsys):
    assert main(["weights", "get"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in SOURCES)


def run_file(tmp_path, **model):
    path = write_project(tmp_path / "project")
    tree = yaml.safe_load(path.read_text())
    tree["model"] = {"arch": "video_llama", "model_type": "vicuna7b", **model}
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def test_a_run_files_missing_paths_are_filled(web, tmp_path, capsys):
    path = run_file(tmp_path, vit_model="ckpt/eva_vit_g.pth", llama_model="ckpt/my-vicuna")
    # What nobody publishes under this name is told, with where it comes from, and the exit code.
    assert main(["weights", "get", "--cfg-path", path, "--yes"]) == 2
    assert (tmp_path / "ckpt" / "eva_vit_g.pth").read_bytes() == CONTENT
    printed = capsys.readouterr().out
    assert "model.llama_model: there is no ckpt/my-vicuna" in printed
    assert "vicuna-7b-delta-v0" in printed


def test_a_run_file_with_an_address_finds_the_file_after_it_was_fetched(web, tmp_path, capsys):
    url = f"{web.url}/eva_vit_g.pth"
    path = run_file(tmp_path, vit_model=url)
    main(["train", "--cfg-path", path])
    assert f"`video-llama weights get {url}` fetches it" in capsys.readouterr().err
    assert main(["weights", "get", "--cfg-path", path, "--yes"]) == 0
    main(["train", "--cfg-path", path])
    assert "eva_vit_g.pth" not in capsys.readouterr().err


REPO = {
    "config.json": b"{}",
    "model.safetensors": CONTENT,
    "pytorch_model.bin": CONTENT,
    "model.onnx": CONTENT,
}


def test_a_repository_of_the_hub_goes_into_its_cache(server, tmp_path):
    serve_repository(server, "lab/bridges", REPO)
    done = get("lab/bridges", "--yes", server=server, env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    snapshot = tmp_path / "hub" / "models--lab--bridges" / "snapshots" / COMMIT
    assert {path.name for path in snapshot.iterdir()} == {"config.json", "model.safetensors"}
    assert (snapshot / "model.safetensors").read_bytes() == CONTENT
    again = get("lab/bridges", "--yes", server=server, env={"HF_HOME": str(tmp_path)})
    assert "everything that can be fetched is there" in again.stdout


def test_a_file_of_the_hub_goes_where_the_user_wants_it(server, tmp_path):
    serve_repository(server, "lab/bridges", {"a/b.pth": CONTENT})
    done = get(
        "hf://lab/bridges/a/b.pth",
        *("--yes", "--to", str(tmp_path / "ckpt" / "a")),
        server=server,
        env={"HF_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ckpt" / "a" / "b.pth").read_bytes() == CONTENT


def test_a_file_of_the_hub_with_another_content_is_deleted(server, tmp_path):
    serve_repository(server, "lab/bridges", {"b.pth": CONTENT}, sha256="f" * 64)
    done = get("lab/bridges", "--yes", server=server, env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "arrived and was deleted" in done.stderr
    assert not list((tmp_path / "hub").glob("**/b.pth"))
    assert not list((tmp_path / "hub").glob("**/blobs/*"))


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "the hub knows no such repository"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "error: lab/nothing: "),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(server, tmp_path, env, said):
    missing = Served(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)
    server.files["/api/models/lab/nothing/revision/main"] = missing
    done = get("lab/nothing", "--yes", server=server, env={"HF_HOME": str(tmp_path), **env})
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_token_is_sent_to_the_hub(server, tmp_path):
    serve_repository(server, "lab/bridges", REPO)
    env = {"HF_HOME": str(tmp_path), "HF_TOKEN": "hf_test"}
    get("lab/bridges", "--dry-run", server=server, env=env)
    assert "Bearer hf_test" in server.tokens


def test_of_a_repository_only_weights_this_package_reads_are_chosen():
    names = [
        ".gitattributes",
        "config.json",
        "model-00001-of-00002.safetensors",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "original/consolidated.00.pth",
        "tf_model.h5",
        "sub/pytorch_model.bin",
    ]
    assert chosen_files(names) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "sub/pytorch_model.bin",
    ]
    assert chosen_files(names, below="sub") == ["sub/pytorch_model.bin"]


@pytest.mark.parametrize("name", SOURCES)
def test_every_published_file_has_an_address_or_a_name_of_the_hub(name):
    where = SOURCES[name].where
    assert (hub_ref(where) is None) != (address(where) is None)


@pytest.mark.parametrize(
    ("path", "key", "expected"),
    [
        ("ckpt/finetune-vicuna7b-v2.pth", "ckpt", "finetune-vicuna7b-v2"),
        ("ckpt/imagebind", "imagebind_ckpt_path", "imagebind_huge"),
        ("elsewhere/eva.pth", "vit_model", "eva_vit_g"),
        ("ckpt/mine.pth", "ckpt", None),
        ("ckpt/vicuna-7b", "llama_model", None),
    ],
)
def test_a_path_of_a_run_file_is_matched_with_what_is_published(path, key, expected):
    assert source_of(path, key=key) == (SOURCES[expected] if expected else None)
