"""Where every part's weights come from, and what is refused rather than guessed."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.sections import parse_model
from video_llama.models.loading import build_model, check_model
from video_llama.models.sources import WEIGHTS_FILE, find_checkpoint
from video_llama.models.video_llm import VideoLLM

WIDTH = 8
QFORMER = {"type": "qformer", "width": 8, "num_heads": 2, "ffn_width": 8, "num_queries": 2}
STAGES = {
    "qformer": {**QFORMER, "num_layers": 1, "trainable": True},
    "projection": {"type": "projection", "width": WIDTH, "trainable": True},
}
EVA = {"type": "eva_vit_g", "image_size": 16, "patch_size": 8, "width": 8, "depth": 1}
IMAGEBIND = {"type": "imagebind", "out_width": 8, "audio_width": 8, "audio_depth": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A decoder, and a file for each encoder under its published names."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1}
    llama = LlamaConfig(**sizes, num_attention_heads=2, vocab_size=20, max_position_embeddings=16)
    LlamaForCausalLM(llama).save_pretrained(folder / "llama")
    for name, branch in VideoLLM(typed(tree())).branches.items():
        published = branch.encoder.key_map().invert()
        state = branch.encoder.state_dict().items()
        save_file(
            {published.translate(key): value for key, value in state},
            folder / f"{name}.safetensors",
        )
    return folder


def tree(files=None):
    """Two branches with frozen encoders; without files nothing is loaded."""
    frozen = {
        name: None if files is None else str(files / f"{name}.safetensors")
        for name in ("video", "audio")
    }
    decoder = {"type": "causal_lm", "weights": None if files is None else str(files / "llama")}
    if files is None:
        decoder["architecture"] = {
            "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
        }  # fmt: skip
    video = {**EVA, "num_heads": 2, "weights": frozen["video"]}
    audio = {**IMAGEBIND, "audio_num_heads": 2, "num_mel_bins": 16, "num_mel_frames": 16}
    return {
        "arch": "video_llama",
        "model_type": "tiny",
        "template": "vicuna_v0",
        "branches": {
            "video": {"media": "video", "encoder": video, "stages": copy.deepcopy(STAGES)},
            "audio": {
                "media": "audio",
                "encoder": {**audio, "weights": frozen["audio"]},
                "stages": copy.deepcopy(STAGES),
            },
        },
        "decoder": decoder,
    }


def typed(node):
    problems = []
    config = parse_model(node, preset_keys={"vit_model", "q_former_model"}, problems=problems)
    assert not problems
    return config


def save_run(folder, model, *, below="checkpoints/last", names=lambda name: True):
    """Write what a run keeps: the parameters that learn."""
    (folder / below).mkdir(parents=True)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad and names(name)}
    state = {name: p.detach() for name, p in learning.items()}
    save_file(state, folder / below / WEIGHTS_FILE)
    return state


def assert_holds(model, state):
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in state.items())


def test_a_model_takes_every_part_from_its_own_file(files):
    loaded = build_model(typed(tree(files)))
    assert [report.source for report in loaded.reports] == [
        str(files / name) for name in ("llama", "video.safetensors", "audio.safetensors")
    ]
    assert loaded.fresh == [
        f"branches.{name}.stages.{stage}" for name in ("video", "audio") for stage in STAGES
    ]
    assert not any(tensor.is_meta for tensor in loaded.model.state_dict().values())


def test_a_run_goes_on_from_the_weights_of_another(files, tmp_path):
    torch.manual_seed(1)
    state = save_run(tmp_path, build_model(typed(tree(files))).model)
    torch.manual_seed(2)
    loaded = build_model(typed({**tree(files), "ckpt": str(tmp_path)}))
    assert loaded.fresh == []
    assert loaded.reports[-1].matched == len(state)
    assert_holds(loaded.model, state)


def test_two_runs_bring_a_branch_each(files, tmp_path):
    torch.manual_seed(1)
    model = build_model(typed(tree(files))).model
    state = {}
    for name in ("video", "audio"):
        state |= save_run(tmp_path / name, model, names=lambda key, name=name: name in key)
    loaded = build_model(
        typed({**tree(files), "ckpt": str(tmp_path / "video"), "ckpt_2": str(tmp_path / "audio")})
    )
    assert loaded.fresh == []
    assert_holds(loaded.model, state)


def test_best_is_preferred_to_last_and_a_checkpoint_may_be_named_itself(tmp_path):
    for below in ("checkpoints/last", "checkpoints/best", "checkpoints/step_5"):
        (tmp_path / below).mkdir(parents=True)
    last = tmp_path / "checkpoints/last" / WEIGHTS_FILE
    best = tmp_path / "checkpoints/best" / WEIGHTS_FILE
    step = tmp_path / "checkpoints/step_5" / WEIGHTS_FILE
    last.touch()
    assert find_checkpoint(tmp_path) == last
    best.touch()
    assert find_checkpoint(tmp_path) == best
    step.touch()
    assert find_checkpoint(step.parent) == find_checkpoint(step) == step


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointMismatch, match=r"no checkpoint there; expected .*trainable"):
        find_checkpoint(tmp_path)


def test_a_branch_that_is_not_built_is_dropped_with_that_reason(files, tmp_path):
    model = build_model(typed(tree(files))).model
    save_run(tmp_path, model)
    node = {**tree(files), "ckpt": str(tmp_path)}
    node["branches"]["audio"] = None
    loaded = build_model(typed(node))
    expected = sum(name.startswith("branches.audio") for name, _ in model.named_parameters())
    frozen = sum(1 for _ in model.branches["audio"].encoder.parameters())
    assert loaded.reports[-1].dropped == {"the model has no branch 'audio'": expected - frozen}


def test_a_stage_that_is_not_built_is_refused_as_left_over(files, tmp_path):
    save_run(tmp_path, build_model(typed(tree(files))).model)
    node = {**tree(files), "ckpt": str(tmp_path)}
    node["branches"]["audio"]["stages"]["qformer"] = None
    with pytest.raises(CheckpointMismatch, match=r"\+ branches\.audio\.stages\.qformer"):
        build_model(typed(node))


@pytest.mark.parametrize("part", ["encoder", "stages.projection"])
def test_a_frozen_part_without_weights_is_refused(part, files):
    node = tree(files)
    *above, last = f"branches.video.{part}".split(".")
    owner = node
    for name in above:
        owner = owner[name]
    owner[last] |= {"weights": None, "trainable": False}
    with pytest.raises(ConfigError, match=rf"model\.branches\.video\.{part}: .* are frozen"):
        build_model(typed(node))


def test_a_frozen_decoder_without_weights_is_refused(files):
    node = tree(files)
    node["decoder"] = tree()["decoder"]
    with pytest.raises(ConfigError, match=r"model\.decoder: 12 of 12 parameters are frozen"):
        build_model(typed(node))


def test_a_checkpoint_of_a_few_parameters_does_not_pass_for_the_whole_part(files, tmp_path):
    model = build_model(typed(tree(files))).model
    save_run(tmp_path, model, names=lambda name: name.endswith("video.stages.qformer.queries"))
    node = {**tree(files), "ckpt": str(tmp_path)}
    node["branches"]["video"]["stages"]["qformer"]["trainable"] = False
    total = sum(1 for _ in model.branches["video"].stages["qformer"].parameters())
    with pytest.raises(ConfigError, match=rf"stages\.qformer: {total - 1} of {total} parameters"):
        build_model(typed(node))


def test_a_part_of_which_a_checkpoint_fills_a_piece_is_refused(files, tmp_path):
    model = build_model(typed(tree(files))).model
    save_run(tmp_path, model, names=lambda name: not name.endswith("video.stages.qformer.queries"))
    with pytest.raises(CheckpointMismatch, match=r"video\.stages\.qformer: 1 of 29 .*in no file"):
        build_model(typed({**tree(files), "ckpt": str(tmp_path)}))


def test_a_part_that_no_checkpoint_brings_is_refused_until_it_is_declared_fresh(files, tmp_path):
    model = build_model(typed(tree(files))).model
    save_run(tmp_path, model, names=lambda name: "video" in name)
    node = {**tree(files), "ckpt": str(tmp_path)}
    with pytest.raises(CheckpointMismatch, match=r"model\.branches\.audio\.stages.*weights=fresh"):
        build_model(typed(node))
    for stage in STAGES:
        node["branches"]["audio"]["stages"][stage]["weights"] = "fresh"
    loaded = build_model(typed(node))
    assert loaded.fresh == [f"branches.audio.stages.{stage}" for stage in STAGES]


def test_a_part_declared_fresh_takes_nothing_from_the_checkpoint(files, tmp_path):
    torch.manual_seed(1)
    state = save_run(tmp_path, build_model(typed(tree(files))).model)
    node = {**tree(files), "ckpt": str(tmp_path)}
    node["branches"]["video"]["stages"]["projection"]["weights"] = "fresh"
    torch.manual_seed(2)
    loaded = build_model(typed(node))
    name = "branches.video.stages.projection.linear.weight"
    assert loaded.fresh == ["branches.video.stages.projection"]
    assert not torch.equal(loaded.model.get_parameter(name), state[name])
    assert loaded.reports[-1].dropped == {"its part is declared fresh": 2}


def test_a_frozen_part_cannot_be_declared_fresh(files):
    node = tree(files)
    node["branches"]["video"]["encoder"]["weights"] = "fresh"
    with pytest.raises(ConfigError, match=r"model\.branches\.video\.encoder: .* are frozen"):
        build_model(typed(node))


def test_a_checkpoint_that_fills_nothing_is_refused(files, tmp_path):
    save_run(tmp_path, build_model(typed(tree(files))).model, names=lambda name: "audio" in name)
    node = {**tree(files), "ckpt": str(tmp_path)}
    node["branches"]["audio"] = None
    with pytest.raises(CheckpointMismatch, match="nothing in it is for this model .*no branch"):
        build_model(typed(node))


def test_every_parameter_has_one_origin_the_last_file_that_brings_it(files, tmp_path):
    torch.manual_seed(1)
    model = build_model(typed(tree(files))).model
    save_run(tmp_path / "first", model)
    torch.manual_seed(2)
    model = build_model(typed(tree(files))).model
    state = save_run(tmp_path / "second", model, names=lambda name: "audio" in name)
    node = {**tree(files), "ckpt": str(tmp_path / "first"), "ckpt_2": str(tmp_path / "second")}
    loaded = build_model(typed(node))
    assert_holds(loaded.model, state)
    names = {name for name, _ in loaded.model.branches.named_parameters(prefix="branches")}
    assert names <= set(loaded.origin)
    assert {loaded.origin[name] for name in state} == {
        str(tmp_path / "second/checkpoints/last" / WEIGHTS_FILE)
    }
    assert len(loaded.replaced) == 1
    assert loaded.replaced[0].startswith(f"{len(state)} tensors of ")


def test_a_check_agrees_with_the_loading_and_holds_no_memory(files, tmp_path):
    save_run(tmp_path, build_model(typed(tree(files))).model)
    config = typed({**tree(files), "ckpt": str(tmp_path)})
    loaded = build_model(config)
    checked, problems = check_model(config)
    assert problems == []
    assert checked.origin == loaded.origin
    assert [(r.source, r.matched) for r in checked.reports] == [
        (r.source, r.matched) for r in loaded.reports
    ]
    assert all(tensor.is_meta for tensor in checked.model.parameters())


def test_a_check_says_everything_that_is_wrong_at_once(files, tmp_path):
    node = tree(files)
    node["branches"]["video"]["encoder"]["weights"] = str(tmp_path / "eva.safetensors")
    node["branches"]["audio"]["encoder"]["audio_depth"] = 2
    _, problems = check_model(typed({**node, "ckpt": str(tmp_path)}))
    assert [problem.split(":")[0] for problem in problems] == [
        str(tmp_path / "eva.safetensors"), str(files / "audio.safetensors"), str(tmp_path),
    ]  # fmt: skip


def test_a_part_may_have_a_file_of_its_own_in_our_names(files, tmp_path):
    weights = {"linear.weight": torch.randn(WIDTH, 8), "linear.bias": torch.randn(WIDTH)}
    save_file(weights, tmp_path / "mine.safetensors")
    node = tree(files)
    node["branches"]["video"]["stages"]["projection"] |= {
        "weights": str(tmp_path / "mine.safetensors"), "trainable": False,
    }  # fmt: skip
    model = build_model(typed(node)).model
    assert torch.equal(
        model.branches["video"].stages["projection"].linear.weight, weights["linear.weight"]
    )


def test_a_published_file_in_the_place_of_another_part_is_not_left_unread(files):
    node = {**tree(files), "vit_model": str(files / "video.safetensors")}
    node["branches"]["audio"]["stages"]["projection"]["weights"] = str(files / "video.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"branches\.audio\.stages\.projection"):
        build_model(typed(node))


def test_random_parts_are_the_same_under_the_same_seed(files):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model(typed(tree(files))).model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
