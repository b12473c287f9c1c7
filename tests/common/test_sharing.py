"""Stages that are another branch's: what is read from a section, and every way to get it wrong."""

from __future__ import annotations

import copy

import pytest

from video_llama.common.config import load_preset
from video_llama.common.errors import ConfigError
from video_llama.common.sections import model_section, parse_model

STAGES = {"norm": {"type": "layer_norm"}, "projection": {"type": "projection", "width": 24}}
ENCODER = {"type": "eva_vit_g", "width": 16, "depth": 1, "num_heads": 2}
SECTION = {
    "arch": "video_llama",
    "model_type": "tiny",
    "template": "vicuna_v0",
    "branches": {
        "image": {"media": "image", "encoder": {**ENCODER}, "stages": STAGES},
        "video": {
            "media": "video",
            "encoder": {**ENCODER},
            "stages": {"projection": {"share": "image.projection"}},
        },
    },
    "decoder": {"type": "causal_lm"},
}
SHARED = "model.branches.video.stages.projection"


def parse(change=None):
    tree = copy.deepcopy(SECTION)
    if change:
        change(tree["branches"])
    problems = []
    return parse_model(tree, preset_keys=set(), problems=problems), problems


def problems_with(**stage):
    """What is wrong if the video's projection is this."""
    return parse(lambda branches: branches["video"]["stages"].update(projection=stage))[1]


def test_a_shared_stage_is_its_owners_and_keeps_its_place():
    def after_a_norm(branches):
        stages = {"norm": {"type": "layer_norm"}, "projection": {"share": "image.projection"}}
        branches["video"]["stages"] = {**stages, "last": {"type": "layer_norm"}}
        branches["image"]["stages"]["projection"] |= {"trainable": True, "lr": 1e-3}

    config, problems = parse(after_a_norm)
    assert not problems
    stages = config.branches["video"].stages
    assert list(stages) == ["norm", "projection", "last"]
    assert stages["projection"].share == "image.projection"
    assert stages["projection"].config == config.branches["image"].stages["projection"].config
    assert (stages["projection"].trainable, stages["projection"].lr) == (False, None)


def test_a_section_with_a_shared_stage_is_written_and_read_again():
    config, _ = parse()
    section, problems = model_section(config), []
    assert section["branches"]["video"]["stages"] == {"projection": {"share": "image.projection"}}
    assert parse_model(section, preset_keys=set(), problems=problems) == config
    assert not problems


def test_an_override_gives_a_stage_back_its_own():
    def own(branches):
        branches["video"]["stages"]["projection"] |= {
            "share": None, "type": "projection", "width": 24
        }  # fmt: skip

    config, problems = parse(own)
    assert not problems
    assert config.branches["video"].stages["projection"].share is None


def test_an_override_shares_a_stage_that_had_its_own_keys():
    assert not problems_with(share="image.projection", type=None, width=None)


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        ("imge.projection", "there is no branch for 'imge.projection', did you mean 'image.pro"),
        ("image.projecton", "there is no stage for 'image.projecton', did you mean 'image.pro"),
        ("projection", "expected branch.stage, e.g. image.projection, found 'projection'"),
        ("image.stages.projection", "expected branch.stage"),
        (3, "expected branch.stage, e.g. image.projection, found 3"),
    ],
)
def test_an_unknown_owner_is_named_with_the_nearest_one(owner, said):
    (problem,) = problems_with(share=owner)
    assert problem.startswith(f"{SHARED}.share: {said}")


def test_keys_beside_share_are_named_with_the_place_they_belong_to():
    (problem,) = problems_with(share="image.projection", type="projection", trainable=True)
    assert problem == (
        f"{SHARED}.share: 'image.projection' is used as it is, and type, trainable would be for a "
        "stage of its own; set them at model.branches.image.stages.projection, or set share: null"
    )


def test_an_owner_that_is_null_is_named():
    (problem,) = parse(lambda branches: branches.update(image=None))[1]
    assert problem.startswith(
        f"{SHARED}.share: 'image.projection' is not built, model.branches.image is null; give this"
    )
    (problem,) = parse(lambda branches: branches["image"]["stages"].update(projection=None))[1]
    assert "model.branches.image.stages.projection is null" in problem


def test_the_owner_of_a_shared_stage_must_not_share_it_itself():
    def further(branches):
        branches["image"]["stages"]["copy"] = {"share": "image.projection"}
        branches["video"]["stages"]["projection"] = {"share": "image.copy"}

    (problem,) = parse(further)[1]
    assert problem == (
        f"{SHARED}.share: 'image.copy' is shared itself; name its owner: share: image.projection"
    )


@pytest.mark.parametrize("back", ["video.projection", "image.projection"])
def test_a_circle_of_shares_is_named(back):
    def circle(branches):
        branches["image"]["stages"]["projection"] = {"share": back}

    problems = parse(circle)[1]
    assert problems
    assert all("a circle without a stage that is built" in problem for problem in problems)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_only_stages_can_be_shared(kind):
    tree = copy.deepcopy(SECTION)
    (tree if kind == "decoder" else tree["branches"]["video"])[kind]["share"] = "image.projection"
    problems = []
    parse_model(tree, preset_keys=set(), problems=problems)
    assert len(problems) == 1
    assert f"{kind}.share: unknown key" in problems[0]


def test_two_branches_may_share_with_each_other():
    def both_ways(branches):
        branches["image"]["stages"]["norm"] = {"share": "video.norm"}
        branches["video"]["stages"] = {
            "norm": {"type": "layer_norm"},
            "projection": {"share": "image.projection"},
        }

    assert not parse(both_ways)[1]


def test_names_that_are_numbers_in_yaml_are_names():
    def numbered(branches):
        branches["image"]["stages"][1] = {"type": "layer_norm"}
        branches[2] = {**branches.pop("video"), "stages": {1: {"share": "image.1"}}}

    config, problems = parse(numbered)
    assert not problems
    assert config.branches["2"].stages["1"].share == "image.1"


@pytest.mark.parametrize("broken", [3, None, [], {"stages": 3}, {"stages": {"projection": 3}}])
def test_what_is_no_mapping_is_told_by_who_reads_it(broken):
    assert parse(lambda branches: branches.update(image=broken))[1]


def stage_with(*options):
    """The video's projection in a shipped preset, overridden on the command line."""
    where = "model.branches.video.stages.projection"
    config = load_preset("video_llava", "vicuna7b", options=[f"{where}.{o}" for o in options])
    return config.branches["video"].stages["projection"]


def test_naming_a_type_makes_a_shared_stage_its_own():
    stage = stage_with("type=projection", "width=4096")
    assert (stage.type, stage.share) == ("projection", None)


def test_naming_an_owner_replaces_a_stage_of_its_own_with_all_its_keys():
    options = ["model.branches.image.stages.projection.share=video.projection"]
    options += ["model.branches.video.stages.projection.type=mlp"]
    options += ["model.branches.video.stages.projection.width=4096"]
    config = load_preset("video_llava", "vicuna7b", options=options)
    assert config.branches["image"].stages["projection"].share == "video.projection"


def test_without_pictures_a_shared_stage_asks_for_its_own():
    with pytest.raises(ConfigError, match=r"'image.projection' is not built, model.branches.image"):
        load_preset("video_llava", "vicuna7b", options=["model.branches.image=null"])
