"""Video-LLaVA's directories, at tiny size and in every layout, through the whole loading."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tiny_llava import (
    FRAMES,
    HIDDEN,
    LAYERS,
    ROWS,
    WORDS,
    WRITERS,
    original_name,
    original_state,
    port,
    temporal,
    tree,
    typed,
    write_hub,
    write_languagebind,
    write_original,
    write_state,
)

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.released import take_released
from video_llama.models.fidelity import fidelity_of
from video_llama.models.loading import build_model, check_model
from video_llama.models.pretrained import read_folder
from video_llama.models.released.video_llava import layout_of
from video_llama.models.released.video_llava import names_of_directory as names_of

PLACES = (
    ("decoder.model.", ""),
    ("branches.image.stages.projection.layers.", "model.mm_projector."),
    ("branches.image.encoder.", "model.image_tower.image_tower."),
    ("branches.video.encoder.", "model.video_tower.video_tower."),
)
UNUSED = (f"encoder.layers.{LAYERS - 1}.", "post_layernorm.", "position_ids", "inv_freq")
"""The layer behind the one in use, the norm behind it, and buffers of old releases."""


def published(ours):
    """The original name of one of our tensors."""
    prefix, theirs = next(place for place in PLACES if ours.startswith(place[0]))
    return theirs + ours.removeprefix(prefix)


def assert_filled_from(model, state):
    """Every tensor is the published one, bit for bit, and every published one in use is there."""
    held = {published(name): tensor for name, tensor in model.state_dict().items()}
    assert set(held) == {name for name in state if not any(part in name for part in UNUSED)}
    for name, tensor in held.items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("shards", [1, 2])
def test_an_original_directory_fills_the_whole_model_with_its_own_towers(shards, suffix, tmp_path):
    directory = write_original(tmp_path / "llava", shards=shards, suffix=suffix)
    loaded = build_model(typed(tree(directory)))
    assert_filled_from(loaded.model, original_state())
    assert (loaded.fresh, loaded.replaced) == ([], [])


@pytest.mark.parametrize("layout", ["hf", "transformers5"])
def test_directories_of_transformers_fill_the_whole_model_and_its_longer_tables(layout, tmp_path):
    directory = WRITERS[layout](tmp_path / "llava")
    model = build_model(typed(tree(directory, temporal_attention=False))).model
    assert_filled_from(model, {original_name(n): t for n, t in port().state_dict().items()})
    assert model.decoder.vocab_size == ROWS
    assert len(model.decoder.model.lm_head.weight) == ROWS


def test_a_state_dict_saved_by_hand_is_read_too(tmp_path):
    write_hub(tmp_path / "llava")
    state = dict(port().state_dict())
    save_file(state, tmp_path / "llava/model.safetensors", metadata={"format": "pt"})
    assert layout_of(names_of(str(tmp_path / "llava"))).name == "transformers5, as in memory"
    model = build_model(typed(tree(tmp_path / "llava", temporal_attention=False))).model
    assert_filled_from(model, {original_name(name): tensor for name, tensor in state.items()})


def test_what_is_left_out_is_counted_with_its_reason(tmp_path):
    loaded = build_model(typed(tree(write_original(tmp_path / "llava"))))
    decoder, rest = loaded.reports
    assert decoder.dropped["rotary frequencies, computed from config.json"] == 1
    assert rest.dropped["counted, not learnt"] == 2
    assert rest.dropped["the decoder's, read by it"] == 22
    assert rest.matched + sum(rest.dropped.values()) == len(original_state())


@pytest.mark.parametrize("layout", WRITERS)
def test_a_check_agrees_with_the_loading(layout, tmp_path):
    directory = WRITERS[layout](tmp_path / "llava")
    config = typed(tree(directory, temporal_attention=layout == "original"))
    checked, problems = check_model(config)
    loaded = build_model(config)
    assert problems == []
    assert [str(report) for report in checked.reports] == [str(r) for r in loaded.reports]


def test_one_branch_alone_leaves_the_other_tower_out_with_that_reason(tmp_path):
    section = tree(write_original(tmp_path / "llava"))
    del section["branches"]["video"]
    report = build_model(typed(section)).reports[-1]
    of_video = sum(".video_tower." in name for name in original_state())
    assert report.dropped["the model has no branch 'video'"] == of_video


def test_a_tensor_that_is_missing_or_too_many_is_refused(tmp_path):
    state = original_state()
    lost = "model.video_tower.video_tower.encoder.layers.0.temporal_attn.q_proj.bias"
    write_original(tmp_path / "lost")
    save_file(
        {name: tensor for name, tensor in state.items() if name != lost},
        tmp_path / "lost/model.safetensors",
    )
    with pytest.raises(CheckpointMismatch, match=r"layers\.0\.temporal_attn\.q_proj\.bias"):
        build_model(typed(tree(tmp_path / "lost")))
    write_original(tmp_path / "more")
    save_file(
        {**state, "model.smell_tower.weight": torch.ones(1)}, tmp_path / "more/model.safetensors"
    )
    with pytest.raises(CheckpointMismatch, match=r"\+ model\.smell_tower\.weight"):
        build_model(typed(tree(tmp_path / "more")))


def test_a_broken_decoder_in_a_directory_of_more_is_refused(tmp_path):
    write_hub(tmp_path / "llava")
    state = {f"language_model.{name}": torch.ones(1) for name in ("model.layers.9.x",)}
    whole = {**dict(_state_of(tmp_path / "llava")), **state}
    save_file(whole, tmp_path / "llava/model.safetensors", metadata={"format": "pt"})
    config = typed(tree(tmp_path / "llava", temporal_attention=False))
    with pytest.raises(CheckpointMismatch, match=r"model\.layers\.9\.x"):
        build_model(config)
    assert any("model.layers.9.x" in problem for problem in check_model(config)[1])


def _state_of(directory):
    from video_llama.common.state_files import read_state

    return {name: tensor.clone() for name, tensor in read_state(directory).items()}


def test_an_hf_directory_repaired_with_languagebind_is_the_original(tmp_path):
    section = tree(write_hub(tmp_path / "hf"))
    lb = str(write_languagebind(tmp_path / "LanguageBind_Video_merge"))
    section["video_tower"] = section["branches"]["video"]["encoder"]["weights"] = lb
    model = build_model(typed(section)).model
    held = {published(name): tensor for name, tensor in model.state_dict().items()}
    state = original_state()
    temporal_names = {name for name in held if "temporal" in name}
    assert temporal_names == {name for name in temporal() if f"layers.{LAYERS - 1}." not in name}
    for name, tensor in held.items():
        # The port's tables of words are longer.
        assert torch.equal(tensor[: len(state[name])], state[name]), name


def test_without_temporal_blocks_the_full_wiring_is_refused_with_the_ways_out(tmp_path):
    with pytest.raises(CheckpointMismatch) as refusal:
        build_model(typed(tree(write_hub(tmp_path / "hf"))))
    assert "temporal_" in str(refusal.value)
    assert "vicuna7b_hf_compat" in str(refusal.value)
    assert "model.video_tower" in str(refusal.value)


@pytest.mark.parametrize("layout", WRITERS)
def test_a_folder_saved_whole_needs_no_released_directory(layout, tmp_path):
    directory = WRITERS[layout](tmp_path / "llava")
    model = build_model(typed(tree(directory, temporal_attention=layout == "original"))).model
    model.save_pretrained(tmp_path / "saved", full=True)
    shutil.rmtree(directory)
    again = build_model(read_folder(tmp_path / "saved")).model.state_dict()
    assert set(again) == set(model.state_dict())
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_a_folder_of_what_was_trained_names_the_released_directory(tmp_path):
    section = tree(write_original(tmp_path / "llava"))
    section["branches"]["image"]["stages"]["projection"]["trainable"] = True
    model = build_model(typed(section)).model
    model.save_pretrained(tmp_path / "saved")
    again = build_model(read_folder(tmp_path / "saved"))
    assert all(
        torch.equal(again.model.state_dict()[name], tensor)
        for name, tensor in model.state_dict().items()
    )
    assert fidelity_of(again.model.config).verdict == "trained on top (ckpt)"


def given(directory, *, options=("model.released",), **model):
    section = {"arch": "video_llava", "released": str(directory), **model}
    return take_released(section, on_command_line=options)


@pytest.mark.parametrize("layout", WRITERS)
def test_a_directory_stands_for_all_pieces(layout, tmp_path):
    directory = str(WRITERS[layout](tmp_path / "llava"))
    keys = ("llama_model", "image_tower", "video_tower", "mm_projector")
    model = given(directory)
    assert [model[key] for key in keys] == [directory] * 4
    # The presets are for what was published; another size keeps the run file's own.
    assert "model_type" not in model
    assert "video_tower" not in given(directory, branches={"video": None})
    lb = given(directory, video_tower="LB", options=("model.released", "model.video_tower"))
    assert lb["video_tower"] == "LB"


@pytest.mark.parametrize(
    ("layout", "preset"), [("original", "vicuna7b"), ("hf", "vicuna7b_hf_compat")]
)
def test_a_directory_of_the_published_size_decides_the_preset(layout, preset, tmp_path):
    directory = WRITERS[layout](tmp_path / "llava")
    config = json.loads((directory / "config.json").read_text())
    config.get("text_config", config)["hidden_size"] = 4096
    (directory / "config.json").write_text(json.dumps(config))
    assert given(directory)["model_type"] == preset
    kept = given(directory, model_type="toy", options=("model.released", "model.model_type"))
    assert kept["model_type"] == "toy"


def test_a_name_of_the_hub_is_spelled_out_before_it_is_fetched():
    model = given("LanguageBind/Video-LLaVA-7B-hf")
    assert model["model_type"] == "vicuna7b_hf_compat"
    assert model["llama_model"] == "LanguageBind/Video-LLaVA-7B-hf"
    assert given("LanguageBind/Video-LLaVA-7B")["model_type"] == "vicuna7b"


def test_another_folder_is_refused_with_what_is_in_it(tmp_path):
    decoder_alone = tmp_path / "llama"
    write_state(decoder_alone, {"model.norm.weight": torch.ones(2)})
    with pytest.raises(ConfigError, match=r"holds no whole Video-LLaVA.*found: model\.safetensors"):
        given(decoder_alone)
    with pytest.raises(ConfigError, match=r"there is no folder"):
        given(tmp_path / "nowhere")


def test_the_file_of_stage_1_fills_the_projector_as_weights_and_as_checkpoint(tmp_path):
    state = original_state()
    projector = {name: t for name, t in state.items() if ".mm_projector." in name}
    torch.save(projector, tmp_path / "mm_projector.bin")
    section = tree(write_original(tmp_path / "llava"))
    projection = section["branches"]["image"]["stages"]["projection"]
    file = str(tmp_path / "mm_projector.bin")
    for where in ("mm_projector", "ckpt"):
        section["mm_projector"] = projection["weights"] = file if where == "mm_projector" else None
        section["ckpt"] = file if where == "ckpt" else None
        loaded = build_model(typed(section))
        assert loaded.origin["branches.image.stages.projection.layers.2.bias"] == file
        assert_filled_from(loaded.model, state)


@pytest.mark.parametrize("name", ["projection", "bridge"])
@pytest.mark.parametrize("file", ["mm_projector.bin", "original", "hf"])
def test_a_published_projector_starts_projectors_of_ones_own(file, name, tmp_path):
    section = tree(write_original(tmp_path / "original"))
    state = original_state()
    if file == "hf":
        write_hub(tmp_path / "hf")
    if file == "mm_projector.bin":
        projector = {n: t for n, t in state.items() if ".mm_projector." in n}
        torch.save(projector, tmp_path / file)
    section["mm_projector"] = str(tmp_path / file)
    for branch in section["branches"].values():
        stage = {"type": "mlp", "width": HIDDEN, "weights": section["mm_projector"]}
        branch["stages"] = {name: stage}
    model = build_model(typed(section)).model
    for branch in ("image", "video"):
        layers = model.branches[branch].stages[name].layers
        for number in (0, 2):
            expected = state[f"model.mm_projector.{number}.weight"]
            assert torch.equal(layers[number].weight, expected)


def test_a_projector_may_be_named_at_its_stage_alone(tmp_path):
    state = original_state()
    section = tree(write_original(tmp_path / "original"))
    file = tmp_path / "projector.bin"
    torch.save({n: t for n, t in state.items() if ".mm_projector." in n}, file)
    projection = section["branches"]["image"]["stages"].pop("projection")
    section["mm_projector"] = None
    section["branches"]["image"]["stages"]["bridge"] = {**projection, "weights": str(file)}
    section["branches"]["video"]["stages"] = {"bridge": {"share": "image.bridge"}}
    loaded = build_model(typed(section))
    assert loaded.origin["branches.image.stages.bridge.layers.2.bias"] == str(file)


def test_the_sizes_of_this_file_are_what_the_tests_think():
    assert len(original_state()) == len(port().state_dict()) + len(temporal()) + 3
    assert original_state()["lm_head.weight"].shape[0] == WORDS < ROWS
    assert temporal()[next(iter(temporal()))].shape[1] == FRAMES
