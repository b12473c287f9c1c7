"""Directories and files of Video-LLaVA come out as they were read, bit for bit."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny_llava import (
    HIDDEN,
    IMAGE_ID,
    LAYERS,
    LLAMA,
    ROWS,
    WORDS,
    WRITERS,
    hub_state,
    original_state,
    port,
    temporal,
    tree,
    typed,
    write_hub,
    write_languagebind,
    write_original,
)
from transformers import VideoLlavaForConditionalGeneration

from video_llama.apps.main import main
from video_llama.common.errors import CheckpointMismatch, ConfigError, VideoLlamaError
from video_llama.common.shard_writer import plan_shards
from video_llama.common.state_files import read_state
from video_llama.models import directory_export
from video_llama.models.exporting import export_branches, export_directory
from video_llama.models.loading import build_model

BUFFERS = ("inv_freq", "position_ids")


def weights_of(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith(BUFFERS)}


def assert_same(directory, state):
    """A directory holds just these tensors, bit for bit."""
    written = read_state(directory)
    assert set(written) == set(state)
    for name, tensor in state.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor), name


def section_of(layout, folder):
    directory = WRITERS[layout](folder / layout)
    return tree(directory, temporal_attention=layout == "original")


@pytest.mark.parametrize("layout", WRITERS)
def test_a_layout_goes_through_ours_and_comes_out_as_it_was(layout, tmp_path):
    config = typed(section_of(layout, tmp_path))
    export_directory(config, out=tmp_path / "out", file_format=layout)
    before = read_state(tmp_path / layout)
    assert_same(tmp_path / "out", weights_of(before))
    old, new = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in (layout, "out")
    )
    assert new == old
    again = tree(tmp_path / "out", temporal_attention=layout == "original")
    first, second = (build_model(c).model.state_dict() for c in (config, typed(again)))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_temporal_blocks_are_among_what_comes_out(tmp_path):
    config = typed(section_of("original", tmp_path))
    export_directory(config, out=tmp_path / "out", file_format="original")
    written = read_state(tmp_path / "out")
    for name, tensor in temporal().items():
        assert torch.equal(written[name], tensor)
    # The layer behind the one in use is never built, and comes out all the same.
    assert any(f"layers.{LAYERS - 1}.temporal_attn" in name for name in written)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_of_the_files_is_kept(dtype, tmp_path):
    directory = write_original(tmp_path / "llava")
    state = {name: tensor.to(dtype) for name, tensor in weights_of(original_state()).items()}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    export_directory(typed(tree(directory)), out=tmp_path / "out", file_format="original")
    assert_same(tmp_path / "out", state)


def test_large_directories_come_out_in_shards(tmp_path, monkeypatch):
    def small(specs, *, max_bytes):
        return plan_shards(specs, max_bytes=20_000)

    monkeypatch.setattr(directory_export, "plan_shards", small)
    config = typed(section_of("hf", tmp_path))
    export_directory(config, out=tmp_path / "out", file_format="hf")
    assert (tmp_path / "out/model.safetensors.index.json").is_file()
    assert_same(tmp_path / "out", hub_state())


@pytest.mark.parametrize(("layout", "other"), [("hf", "transformers5"), ("transformers5", "hf")])
def test_the_layouts_of_transformers_turn_into_each_other(layout, other, tmp_path):
    config = typed(section_of(layout, tmp_path))
    export_directory(config, out=tmp_path / "out", file_format=other)
    assert_same(tmp_path / "out", read_state(WRITERS[other](tmp_path / "expected")))


def test_what_would_lose_temporal_blocks_wants_to_be_told_so(tmp_path):
    config = typed(section_of("original", tmp_path))
    with pytest.raises(CheckpointMismatch, match=r"no place for the temporal blocks.*--lossy"):
        export_directory(config, out=tmp_path / "out", file_format="hf")
    assert not (tmp_path / "out").exists()
    hub = typed(section_of("hf", tmp_path))
    with pytest.raises(CheckpointMismatch, match=r"LanguageBind_Video_merge"):
        export_directory(hub, out=tmp_path / "out", file_format="original")


@pytest.mark.parametrize("layout", ["hf", "transformers5"])
def test_transformers_loads_the_lossy_export_of_an_original_whole(layout, tmp_path):
    config = typed(section_of("original", tmp_path))
    export_directory(config, out=tmp_path / "out", file_format=layout, is_lossy=True)
    model, info = VideoLlavaForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.vision_config.hidden_act == "gelu"
    assert (model.config.image_token_id, model.config.video_token_id) == (WORDS, WORDS + 1)
    # 50 words and three more, filled up to a multiple of 64.
    assert model.config.text_config.vocab_size == len(model.lm_head.weight) == ROWS
    expected = port().state_dict()
    for name, tensor in model.state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:
            assert torch.equal(tensor[:WORDS], expected[name][:WORDS])
            mean = expected[name][:WORDS].mean(dim=0)
            assert torch.allclose(tensor[WORDS:], mean.expand(ROWS - WORDS, -1))
        else:
            assert torch.equal(tensor, expected[name]), name


def test_a_repaired_directory_of_transformers_comes_out_as_the_original(tmp_path):
    section = tree(write_hub(tmp_path / "hf"))
    tower = str(write_languagebind(tmp_path / "LanguageBind_Video_merge"))
    section["video_tower"] = section["branches"]["video"]["encoder"]["weights"] = tower
    export_directory(typed(section), out=tmp_path / "out", file_format="original")
    assert_same(tmp_path / "out", weights_of(original_state()))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["vocab_size"]) == ("llava", IMAGE_ID)
    assert config["mm_projector_type"] == "mlp2x_gelu"
    assert config["hidden_size"] == LLAMA["hidden_size"]
    build_model(typed(tree(tmp_path / "out")))


@pytest.mark.parametrize("layout", ["hf", "transformers5"])
def test_transformers_builds_the_activation_of_a_repaired_model(layout, tmp_path):
    section = tree(WRITERS[layout](tmp_path / "base"))
    tower = str(write_languagebind(tmp_path / "LanguageBind_Video_merge"))
    section["video_tower"] = section["branches"]["video"]["encoder"]["weights"] = tower
    export_directory(typed(section), out=tmp_path / "out", file_format=layout, is_lossy=True)
    model = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.config.vision_config.hidden_act == "gelu"
    before, after = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("base", "out")
    )
    assert after == {**before, "vision_config": {**before["vision_config"], "hidden_act": "gelu"}}


def changed(section, **keys):
    """Both towers with other keys."""
    for branch in section["branches"].values():
        branch["encoder"] |= keys
    return section


@pytest.mark.parametrize("layout", ["original", "hf"])
def test_the_layer_in_use_stands_in_config_json(layout, tmp_path):
    section = changed(section_of(layout, tmp_path), select_layer=-3)
    export_directory(typed(section), out=tmp_path / "out", file_format=layout)
    config = json.loads((tmp_path / "out/config.json").read_text())
    key = "mm_vision_select_layer" if layout == "original" else "vision_feature_layer"
    assert config[key] == -3


@pytest.mark.parametrize(("frames", "positions"), [(4, 20), (2, 10)])
def test_a_clip_has_as_many_positions_as_its_frames_have_tokens(frames, positions, tmp_path):
    section = section_of("hf", tmp_path)
    section["branches"]["video"]["encoder"]["num_frames"] = frames
    export_directory(typed(section), out=tmp_path / "out", file_format="hf")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["video_seq_length"] == positions


def test_a_deeper_projector_is_named_by_its_depth(tmp_path):
    section = section_of("original", tmp_path)
    projection = section["branches"]["image"]["stages"]["projection"]
    projection |= {"depth": 3, "weights": str(tmp_path / "mm_projector.bin")}
    sides = {0: (HIDDEN, 16), 2: (HIDDEN, HIDDEN), 4: (HIDDEN, HIDDEN)}
    state = {f"model.mm_projector.{i}.weight": torch.randn(side) for i, side in sides.items()}
    state |= {f"model.mm_projector.{i}.bias": torch.randn(HIDDEN) for i in sides}
    torch.save(state, tmp_path / "mm_projector.bin")
    section["mm_projector"] = projection["weights"]
    export_directory(typed(section), out=tmp_path / "out", file_format="original")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["mm_projector_type"] == "mlp3x_gelu"
    assert_same(tmp_path / "out", {**weights_of(original_state()), **state})
    with pytest.raises(CheckpointMismatch, match=r"no word for \S+\.projection\.depth 3"):
        export_directory(typed(section), out=tmp_path / "hf", file_format="hf", is_lossy=True)


@pytest.mark.parametrize(
    ("layout", "part", "keys", "words"),
    [
        ("original", "projection", {"activation": "relu"}, "projection.activation relu"),
        ("hf", "projection", {"hidden_width": HIDDEN + 1}, "has another shape"),
        ("original", "image", {"image_size": 24}, "image_size 24, for which the 5 positions"),
        ("original", "video", {"drop_class_token": True}, "video.encoder.drop_class_token true"),
        ("hf", "image", {"drop_class_token": False}, "image.encoder.drop_class_token false"),
        ("hf", "image", {"activation": "gelu"}, "towers that differ in size or activation"),
        ("original", "image", {"select_layer": -1}, "towers that differ in select_layer"),
    ],
)
def test_what_config_json_has_no_word_for_is_refused(layout, part, keys, words, tmp_path):
    section = section_of(layout, tmp_path)
    branches = section["branches"]
    is_projection = part == "projection"
    node = branches["image"]["stages"][part] if is_projection else branches[part]["encoder"]
    node |= keys
    with pytest.raises(CheckpointMismatch, match=re.escape(words)):
        export_directory(typed(section), out=tmp_path / "out", file_format=layout, is_lossy=True)


def test_the_port_has_a_word_for_the_activation_of_the_projector(tmp_path):
    section = section_of("hf", tmp_path)
    section["branches"]["image"]["stages"]["projection"]["activation"] = "relu"
    export_directory(typed(section), out=tmp_path / "out", file_format="hf")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["projector_hidden_act"] == "relu"


@pytest.mark.parametrize("layout", ["original", "hf"])
def test_a_model_of_one_tower_is_written_only_if_that_is_said(layout, tmp_path):
    section = section_of(layout, tmp_path)
    del section["branches"]["video"]
    with pytest.raises(CheckpointMismatch, match=r"no branch 'video'.*--lossy"):
        export_directory(typed(section), out=tmp_path / "out", file_format=layout)
    export_directory(typed(section), out=tmp_path / "out", file_format=layout, is_lossy=True)
    assert not any("video_tower" in name for name in read_state(tmp_path / "out"))
    if layout == "original":
        config = json.loads((tmp_path / "out/config.json").read_text())
        assert config["mm_video_tower"] is None
        assert config["mm_image_tower"] == "LanguageBind/LanguageBind_Image"


def test_an_activation_that_the_published_loader_has_not_wants_to_be_told_so(tmp_path):
    section = changed(section_of("original", tmp_path), activation="quick_gelu")
    with pytest.raises(CheckpointMismatch, match=r"activation is quick_gelu.*--lossy"):
        export_directory(typed(section), out=tmp_path / "out", file_format="original")


@pytest.fixture
def run(tmp_path):
    """The run file and the checkpoint of a run that trained the projector."""
    directory = write_original(tmp_path / "base")
    section = tree(directory)
    prefix = "branches.image.stages.projection.layers"
    weights = {f"{prefix}.{i}.bias": torch.randn(HIDDEN) for i in (0, 2)}
    weights |= {f"{prefix}.2.weight": torch.randn(HIDDEN, HIDDEN)}
    weights[f"{prefix}.0.weight"] = torch.randn(HIDDEN, 16)
    folder = tmp_path / "run/checkpoints/last"
    folder.mkdir(parents=True)
    save_file(weights, folder / "trainable.safetensors")
    section["ckpt"] = str(tmp_path / "run")
    return section, {name.replace(prefix, "model.mm_projector"): t for name, t in weights.items()}


def test_the_projector_comes_out_as_the_file_of_stage_1(run, tmp_path):
    section, trained = run
    out = tmp_path / "mm_projector.bin"
    export_branches(typed(section), out=out, file_format="plain")
    content = torch.load(out, weights_only=True)
    assert set(content) == set(trained)
    assert all(torch.equal(content[name], tensor) for name, tensor in trained.items())
    assert out.stat().st_size < 1.2 * sum(t.nbytes for t in trained.values()) + 5_000


def test_what_was_trained_replaces_what_was_published(run, tmp_path):
    section, trained = run
    export_directory(typed(section), out=tmp_path / "out", file_format="original")
    assert_same(tmp_path / "out", {**weights_of(original_state()), **trained})


def test_the_last_checkpoint_wins(run, tmp_path):
    section, trained = run
    first = read_state(tmp_path / "run/checkpoints/last/trainable.safetensors")
    second = {name: torch.full(first[name].shape, 7.0) for name in first}
    save_file(second, tmp_path / "second.safetensors")
    section["ckpt_2"] = str(tmp_path / "second.safetensors")
    export_directory(typed(section), out=tmp_path / "out", file_format="original")
    written = read_state(tmp_path / "out")
    assert all((written[name] == 7.0).all() for name in trained)


def test_a_trained_part_of_another_size_is_refused(run, tmp_path):
    file = tmp_path / "run/checkpoints/last/trainable.safetensors"
    state = {name: tensor.clone() for name, tensor in read_state(file).items()}
    state["branches.image.stages.projection.layers.2.weight"] = torch.ones(HIDDEN, HIDDEN + 1)
    save_file(state, file)
    with pytest.raises(CheckpointMismatch, match=r"layers\.2\.weight has another shape"):
        export_directory(typed(run[0]), out=tmp_path / "out", file_format="original")


def test_the_words_of_the_port_are_counted_before_the_table_is_filled_up(tmp_path):
    words = 62
    section = section_of("original", tmp_path)
    section["decoder"]["architecture"]["vocab_size"] = words
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    longer = {n: port().state_dict()[f"model.language_model.{n[6:]}"][:words] for n in tables[:1]}
    longer[tables[1]] = port().state_dict()[tables[1]][:words]
    state = {name: t.contiguous() for name, t in (original_state() | longer).items()}
    save_file(state, tmp_path / "original/model.safetensors", metadata={"format": "pt"})
    file = tmp_path / "original/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": words}))
    export_directory(typed(section), out=tmp_path / "out", file_format="hf", is_lossy=True)
    config = json.loads((tmp_path / "out/config.json").read_text())
    # Three more make 65, and the next multiple of 64 is 128.
    assert config["text_config"]["vocab_size"] == 128
    assert (config["image_token_index"], config["video_token_index"]) == (62, 63)
    assert len(read_state(tmp_path / "out")["language_model.lm_head.weight"]) == 128


@pytest.mark.parametrize("layout", ["original", "hf"])
def test_a_head_that_is_the_table_of_words_is_written_too(layout, tmp_path):
    section = section_of("original", tmp_path)
    section["decoder"]["architecture"]["tie_word_embeddings"] = True
    state = {name: t for name, t in original_state().items() if name != "lm_head.weight"}
    save_file(state, tmp_path / "original/model.safetensors", metadata={"format": "pt"})
    file = tmp_path / "original/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tie_word_embeddings": True}))
    export_directory(typed(section), out=tmp_path / "out", file_format=layout, is_lossy=True)
    written = read_state(tmp_path / "out")
    prefix = "" if layout == "original" else "language_model."
    head = written[f"{prefix}lm_head.weight"]
    assert torch.equal(head, written[f"{prefix}model.embed_tokens.weight"])
    assert torch.equal(head[:WORDS], state["model.embed_tokens.weight"])


def test_a_branch_whose_projector_is_shared_names_the_owner(run, tmp_path):
    for branch, words in (
        ("video", r"image\.projection.*name that one"),
        ("smell", "image, video"),
    ):
        with pytest.raises(CheckpointMismatch, match=words):
            export_branches(
                typed(run[0]), out=tmp_path / "p.bin", file_format="plain", branch=branch
            )


def test_the_command_line_writes_a_directory(tmp_path, capsys):
    model = {**section_of("original", tmp_path), "model_type": "vicuna7b"}
    run = {"task": "video_text_pretrain", "output_dir": str(tmp_path)}
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump({"model": model, "run": run}))
    words = ["weights", "export", "--cfg-path", str(run_file), "--out", str(tmp_path / "out")]
    assert main([*words, "--format", "hf"]) == 2
    assert "--lossy" in capsys.readouterr().err
    assert main([*words, "--format", "hf", "--lossy"]) == 0
    assert "135 tensors" in capsys.readouterr().out
    assert main([*words, "--format", "hf", "--lossy"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_another_arch_is_not_written_as_a_directory(tmp_path):
    from tiny_released import tree as video_llama
    from tiny_released import typed as typed_video_llama

    config = typed_video_llama(video_llama())
    with pytest.raises(ConfigError, match=r"video_llama is not published as one directory"):
        export_directory(config, out=tmp_path / "out", file_format="original")


def test_a_part_without_weights_is_not_exported(tmp_path):
    section = section_of("original", tmp_path)
    section["branches"]["image"]["encoder"]["weights"] = None
    with pytest.raises(CheckpointMismatch, match=r"branches\.image\.encoder\.\S+ is in no file"):
        export_directory(typed(section), out=tmp_path / "out", file_format="original")


def test_a_stage_that_was_never_published_has_no_place(tmp_path):
    section = section_of("original", tmp_path)
    stages = section["branches"]["video"]["stages"]
    positions = {"type": "frame_positions", "num_positions": 4}
    section["branches"]["video"]["stages"] = {"positions": positions, **stages}
    with pytest.raises(CheckpointMismatch, match=r"stages\.positions\.\S+ has no place"):
        export_directory(typed(section), out=tmp_path / "out", file_format="original")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory_export, "write_shard", broken)
    config = typed(section_of("original", tmp_path))
    with pytest.raises(VideoLlamaError, match="No space left on device"):
        export_directory(config, out=tmp_path / "out", file_format="original")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original"]
