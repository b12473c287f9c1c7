"""Any causal language model of Hugging Face transformers as a decoder.

Loaded from a local directory, which may hold more than the decoder (see `composite`), or built
without weights from `architecture`. Nothing is fetched and no code from a directory is run.
Tokenizer, sampling and stopping live elsewhere.

Shapes: B batch, L text, S supervised positions of a batch, H width, V vocabulary.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from video_llama.common.errors import ConfigError
from video_llama.common.hub import local_path
from video_llama.common.registry import registry
from video_llama.common.schema import LowResource, PartConfig
from video_llama.common.types import IGNORE_INDEX
from video_llama.common.weights import LoadReport, read_state
from video_llama.models.decoders.architecture import end_ids, max_context, read_architecture
from video_llama.models.decoders.attention import AttentionName, require_attention
from video_llama.models.decoders.base import TokenLosses
from video_llama.models.decoders.composite import read_composite, select_decoder
from video_llama.models.decoders.coverage import (
    INVERSE_FREQUENCIES,
    check_directory,
    left_over,
    quiet,
    refuse_faults,
)
from video_llama.models.decoders.lora import Lora, add_lora, merge_lora
from video_llama.models.decoders.low_resource import (
    keep_gradients,
    quantisation,
    refuse_reduced,
    require_bitsandbytes,
)
from video_llama.models.decoders.placement import (
    Placement,
    check_placement,
    check_spread,
    map_errors,
)
from video_llama.models.decoders.unpadded import find_real, skip_padding
from video_llama.models.precision import own_dtype


@registry.register_decoder("causal_lm")
class CausalLM(nn.Module):
    """Reads embeddings, predicts tokens.

    Args:
        part: the typed config, and in `weights` the directory to load; on the meta device nothing
            is loaded.
        low_resource: what linear layers are kept in, where weights are loaded.
        placement: where they are loaded to; None for the CPU.

    Raises:
        ConfigError: neither weights nor architecture are given, or a setting cannot be honoured.
        CheckpointMismatch: the directory is incomplete or is another network than `architecture`.
    """

    @dataclass(frozen=True)
    class Config:
        """Settings.

        Attributes:
            architecture: keys of the model's config.json, `model_type` among them; needed only
                where there is no directory of weights.
            attention: torch's kernels; the formula written out, for comparison; or the package
                flash-attn on CUDA.
            dtype: of the weights and of the computation.
            max_context: longest sequence; None for the model's own limit.
            lora: adapters to add, None for none.
        """

        architecture: dict[str, Any] | None = None
        attention: AttentionName = "sdpa"
        dtype: Literal["float32", "bfloat16", "float16"] = "float32"
        max_context: int | None = None
        lora: Lora | None = None

    takes_placement = True

    def __init__(
        self,
        part: PartConfig,
        *,
        low_resource: LowResource = "none",
        placement: Placement | None = None,
    ) -> None:
        super().__init__()
        config: CausalLM.Config = part.config
        self.config = config
        self.low_resource: LowResource = low_resource
        self.placement = placement or Placement()
        self.load_report: LoadReport | None = None
        is_meta, attention = torch.get_default_device().type == "meta", config.attention
        if not is_meta:
            require_attention(part)
        elif attention == "flash_attention_2":
            # Nothing will run, and who plans a run may lack the package.
            attention = "sdpa"
        architecture = read_architecture(config.architecture, weights=part.file)
        dtype = getattr(torch, config.dtype)
        if part.file is None and not is_meta and self.placement.is_for(low_resource):
            raise ConfigError(
                "model.low_resource, run.device_map: for a decoder that is loaded, and this one "
                "starts from random weights; set model.decoder.weights, or leave both at none"
            )
        if part.file is None or is_meta:
            self.model: PreTrainedModel = AutoModelForCausalLM.from_config(
                architecture, attn_implementation=attention, dtype=dtype
            )
        else:
            self.load_report = self._load(local_path(part.file), architecture, dtype=dtype)
        keep_gradients(self.model)
        self.model.eval()
        # With the attention that was asked for: on the meta device another may stand for it.
        self.skips_padding = config.attention == "sdpa" and skip_padding(self.model)
        self.width: int = architecture.hidden_size
        self.vocab_size: int = architecture.vocab_size
        self.max_context = max_context(architecture, wanted=config.max_context)
        self.end_ids = end_ids(self.model)
        self.silent_ids: frozenset[int] = frozenset()
        if config.lora is not None:
            add_lora(self.model, config.lora)

    def _load(
        self, directory: Path, architecture: PretrainedConfig, *, dtype: torch.dtype
    ) -> LoadReport:
        """Load all that the directory holds of the decoder, strictly."""
        require_bitsandbytes(self.low_resource, device=self.placement.device)
        check_placement(self.placement, low_resource=self.low_resource)
        # Lives as long as the layers in it.
        self._offloaded = tempfile.TemporaryDirectory() if self.placement.uses_disk else None
        composite = read_composite(directory)
        whole = read_state(directory)
        keys = list(select_decoder(whole, directory))
        with map_errors(self.placement), quiet():
            loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
                directory,
                config=architecture,
                key_mapping=dict(composite.patterns) if composite is not None else None,
                dtype=dtype,
                attn_implementation=self.config.attention,
                local_files_only=True,
                weights_only=True,
                trust_remote_code=False,
                quantization_config=quantisation(self.low_resource, dtype=dtype),
                device_map=self.placement.told(self.low_resource),
                max_memory=self.placement.max_memory,
                offload_folder=self._offloaded and self._offloaded.name,
                # Reported by us instead, together with the names.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        self.model, info = loaded
        if composite is not None:
            # Forgets the renaming, or the decoder would be saved under the directory's names.
            self.model._weight_conversions = None  # type: ignore[assignment]
        refuse_faults(info, directory=directory, ours=keys)
        check_spread(self.model, self.placement)
        old = sum(key.endswith(INVERSE_FREQUENCIES) for key in keys)
        dropped = {"rotary frequencies, computed from config.json": old} if old else {}
        dropped |= left_over(whole, keys)
        return LoadReport(str(directory), matched=len(keys) - old, dropped=dropped)

    def check(self, directory: str) -> LoadReport:
        """Prove from names and shapes alone that a directory would fill this decoder.

        Raises:
            CheckpointMismatch: they do not cover each other.
        """
        lora = self.config.lora
        return check_directory(self.model, directory, adapted=lora.targets if lora else ())

    def embed(self, ids: Tensor) -> Tensor:
        """Look up int64[B, L] on any device, giving float[B, L, H] on the decoder's own."""
        table = self.model.get_input_embeddings()
        embedded: Tensor = table(ids.to(next(table.parameters()).device))
        return embedded

    def forward(
        self, inputs_embeds: Tensor, *, attention_mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """Run the transformer.

        Positions are counted over real tokens, so the side of the padding changes nothing.

        Args:
            inputs_embeds: float[B, L, H].
            attention_mask: bool[B, P + L], false on padding; P positions are in the cache. None
                where nothing is padded, which is faster.
            cache: what was read before; grows by L.

        Returns:
            Hidden states float[B, L, H] behind the last norm.
        """
        mask = positions = None
        if attention_mask is not None:
            mask = attention_mask.long()
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        cached = {"past_key_values": cache, "use_cache": cache is not None}
        return self._run(inputs_embeds, attention_mask=mask, position_ids=positions, **cached)

    def _run(self, inputs_embeds: Tensor, **others: Any) -> Tensor:  # noqa: ANN401 - its own
        with own_dtype(self.model):
            embeds = inputs_embeds.to(self.model.dtype)
            hidden: Tensor = self.model.get_decoder()(inputs_embeds=embeds, **others)[0]
        return hidden.to(inputs_embeds.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states float[..., H] to float32[..., V]."""
        with own_dtype(self.model):
            scores: Tensor = self.model.get_output_embeddings()(hidden)
        return scores.to(hidden.device).float()

    def loss(
        self,
        inputs_embeds: Tensor,
        *,
        attention_mask: Tensor,
        labels: Tensor,
        cache: Cache | None = None,
    ) -> TokenLosses:
        """Compute the loss at supervised positions, and logits nowhere else.

        Args:
            inputs_embeds: float[B, L, H].
            attention_mask: bool[B, P + L], false on padding; P positions are in the cache.
            labels: int64[B, L], `IGNORE_INDEX` where nothing is supervised; the label of a
                position is predicted from the one before it, which must not be padding.
            cache: what was read before; grows by L.

        Returns:
            One float32 loss for every supervised position.
        """
        targets = labels[:, 1:]
        is_supervised = targets != IGNORE_INDEX
        if self.skips_padding and cache is None and not attention_mask.all():
            real = find_real(attention_mask)
            embeds = inputs_embeds.flatten(0, 1).index_select(0, real.source)[None]
            hidden_TH = self._run(embeds, **real.arguments())[0]
            hidden_SH = hidden_TH[real.last_real[:, :-1][is_supervised]]
        else:
            hidden = self(inputs_embeds, attention_mask=attention_mask, cache=cache)
            hidden_SH = hidden[:, :-1][is_supervised]
        targets_S = targets[is_supervised]
        token_loss = functional.cross_entropy(self.logits(hidden_SH), targets_S, reduction="none")
        return TokenLosses(token_loss, sample_index=is_supervised.nonzero()[:, 0])

    def merge_adapters(self) -> list[str]:
        """Make the adapters part of the weights, so that nothing is left of them but the outputs.

        Returns:
            The names of the weights that changed.

        Raises:
            ConfigError: the weights are in fewer bits, which hold no sums.
        """
        refuse_reduced(self.low_resource, what="merged with adapters")
        self.config = replace(self.config, lora=None)
        return [f"model.{name}" for name in merge_lora(self.model)]

    def repeated_layers(self) -> list[nn.Module]:
        """Return the layers that transformers says can be computed again, in their order."""
        return [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]

    def new_cache(self) -> Cache:
        """Return an empty cache for `step`."""
        return DynamicCache(config=self.model.config)

    def step(self, inputs_embeds: Tensor, *, attention_mask: Tensor | None, cache: Cache) -> Tensor:
        """Read on and predict the next token; the first call reads the whole prompt.

        Args:
            inputs_embeds: float[B, L, H], what the cache does not hold yet; padding on the left.
            attention_mask: bool[B, P + L] over the cache and the new positions; None where nothing
                is padded.
            cache: from `new_cache`; grows by L.

        Returns:
            float32[B, V], logits behind the last position.
        """
        hidden = self(inputs_embeds, attention_mask=attention_mask, cache=cache)
        return self.logits(hidden[:, -1])
