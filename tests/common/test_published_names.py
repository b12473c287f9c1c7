"""What a user of Video-LLaMA or LAVIS looks up by name is found."""

import pytest

from video_llama.common.errors import UnknownName
from video_llama.common.registry import PUBLISHED_NAMES, Registry, registry

# The names of Video-LLaMA's own registry (github.com/DAMO-NLP-SG/Video-LLaMA at 64888c0).
DATASETS = ["webvid", "cc_sbu_align", "llava_instruct", "webvid_instruct", "cc_sbu", "laion"]
PROCESSORS = [
    "alpro_video_train",
    "alpro_video_eval",
    "blip2_image_train",
    "blip2_image_eval",
    "blip_caption",
]


@pytest.mark.parametrize("name", DATASETS)
def test_a_published_data_set_has_a_reader(name):
    assert registry.get_builder_class(name) is registry.get_dataset_class(name)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_published_processor_is_found(name):
    assert callable(registry.get_processor_class(name).from_config())


@pytest.mark.parametrize("name", ["image_text_pretrain", "video_text_pretrain"])
def test_both_published_tasks_are_the_same_one(name):
    assert registry.get_task_class(name).__name__ == "VideoTextPretrain"


@pytest.mark.parametrize("name", ["linear_warmup_cosine_lr", "linear_warmup_step_lr"])
def test_a_published_schedule_is_found(name):
    assert name in registry.list_lr_schedulers()
    assert callable(registry.get_lr_scheduler_class(name))


def test_the_published_runner_and_model_are_found():
    assert registry.get_runner_class("runner_base").__name__ == "Runner"
    assert registry.get_model_class("video_llama").__name__ == "VideoLLM"


def test_a_part_registered_under_a_published_name_comes_before_ours():
    mine = Registry()
    own = type("Own", (), {})
    mine.register_dataset("webvid_instruct")(own)
    assert mine.get_dataset_class("webvid_instruct") is own


@pytest.mark.parametrize("kind", PUBLISHED_NAMES)
def test_published_names_stand_for_parts_that_exist_and_are_not_listed_twice(kind):
    for published, ours in PUBLISHED_NAMES[kind].items():
        assert registry.knows(kind, published)
        assert ours in registry.names(kind)
        assert published not in registry.names(kind)


def test_an_unknown_name_is_not_known():
    assert not registry.knows("task", "captioning")
    with pytest.raises(UnknownName, match="captioning"):
        registry.get_task_class("captioning")
