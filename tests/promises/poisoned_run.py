"""A run with a sample whose loss is not a number, left out by policy."""

from runners.tiny_run import TinyDataset, build, config_of

from video_llama.common.dist import process_group


def train(out, **keys):
    """Train as one of the ranks that the environment names."""
    config = config_of(out, on_nan="skip", on_spike="skip", spike_factor=1.02, max_epoch=12, **keys)
    with process_group("cpu") as world:
        build(config, world, dropout=0.0, dataset=TinyDataset(poisoned=["clips-3"])).train()
