"""Low-rank adapters on a decoder's linear layers (LoRA, Hu et al. 2021), through peft.

Which of them learn is `trainable`'s business; merging them into the weights is not done.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from video_llama.common.errors import ConfigError


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on linear layers of the transformer blocks.

    Attributes:
        rank: inner width of an adapter.
        alpha: an adapter's output is scaled by alpha / rank.
        dropout: on an adapter's input.
        targets: last part of the layers' names.
    """

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets:
            raise ValueError("LoRA needs a rank of at least 1 and at least one target.")


def add_lora(model: PreTrainedModel, lora: Lora) -> None:
    """Wrap the target layers in place; the adapters are float32 whatever the base is.

    Raises:
        ConfigError: peft is missing, or no layer has a name of the targets.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "model.decoder.lora needs peft; run: pip install 'video-llama[train]'"
        ) from error
    names = "|".join(lora.targets)
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        # Anchored: a name alone would also match layers of the same name outside the blocks.
        target_modules=rf"(.*\.)?layers\.\d+\.\w+\.({names})",
    )
    try:
        peft.inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise ConfigError(
            f"model.decoder.lora.targets: no layer of {type(model).__name__} is called "
            f"{' or '.join(lora.targets)}"
        ) from error
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
