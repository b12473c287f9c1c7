"""A Q-Former: learned queries that read an encoder's tokens by cross-attention.

The BERT-type transformer of BLIP-2 (LAVIS, lavis/models/blip2_models/Qformer.py) without its text
branch: post-norm, self-attention, then cross-attention in every n-th layer, then an MLP. The same
class reads one frame (BLIP-2), a clip of frames or a row of sound clips (Video-LLaMA). It does not
read instructions.

Shapes: R rows of attention, M rows, T steps, N tokens a step, D incoming width, Q queries, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.types import Features, Shape
from video_llama.common.weights import Excuse, KeyMap
from video_llama.models.bridges.positions import extend_table, spread_positions

NORM_EPS = 1e-12
INIT_STD = 0.02
"""Both from BERT's configuration (bert-base-uncased)."""


@registry.register_bridge("qformer")
class QFormer(nn.Module):
    """Maps [M, T, N, D] to [M, T, Q, W] frame by frame, or to [M, 1, Q, W] over the whole row."""

    @dataclass(frozen=True)
    class Config:
        """Sizes.

        Attributes:
            num_queries: Q.
            num_layers: transformer layers.
            width: W.
            num_heads: attention heads a layer.
            ffn_width: hidden width of the MLP.
            cross_attention_frequency: layers 0, n, 2n, ... read the incoming tokens.
            over: "step" reads each step by itself, "item" all steps of a row together.
            num_positions: rows of a learned table added to the incoming tokens by time step;
                0 for none, then the order of the steps is invisible. More steps than rows share
                the table stretched over them, see `spread_positions`.
            dropout: on attention weights and on every block's output.
            init_std: of the queries and of all linear layers; BERT's suits wide layers, a narrow
                one learns several times faster from about 1 / sqrt(width).
        """

        num_queries: int = 32
        num_layers: int = 2
        width: int = 768
        num_heads: int = 12
        ffn_width: int = 3072
        cross_attention_frequency: int = 1
        over: Literal["step", "item"] = "item"
        num_positions: int = 0
        dropout: float = 0.1
        init_std: float = INIT_STD

        def __post_init__(self) -> None:
            if min(self.num_queries, self.num_layers, self.cross_attention_frequency) < 1:
                raise ValueError(
                    "num_queries, num_layers and cross_attention_frequency must be at least 1."
                )
            if self.width % self.num_heads:
                raise ValueError(
                    f"width {self.width} is no multiple of num_heads {self.num_heads}."
                )
            if self.num_positions < 0:
                raise ValueError(f"num_positions is {self.num_positions}; it must not be negative.")
            if not 0 <= self.dropout < 1:
                raise ValueError(f"dropout is {self.dropout}; it must lie in [0, 1).")
            if self.init_std <= 0:
                raise ValueError(f"init_std is {self.init_std}; it must be above 0.")

        def out_shape(self, shape: Shape) -> Shape:
            """Return the shape of one row after this stage.

            Raises:
                ConfigError: several steps, and a table of one row, which cannot be stretched.
            """
            if self.num_positions == 1 < shape.num_steps:
                raise ConfigError(
                    f"qformer: {shape.num_steps} time steps come in and the table of positions has "
                    "1 row, from which no others follow; raise num_positions or take one step"
                )
            num_steps = shape.num_steps if self.over == "step" else 1
            return Shape(num_steps=num_steps, num_tokens=self.num_queries, width=self.width)

    def __init__(self, config: Config, in_shape: Shape) -> None:
        super().__init__()
        config.out_shape(in_shape)
        if 0 < config.num_positions < in_shape.num_steps:
            get_logger().warning(
                "qformer: %d time steps share a table of %d positions, stretched along time; "
                "num_positions: %d gives each its own",
                *(in_shape.num_steps, config.num_positions, in_shape.num_steps),
            )
        self.config = config
        self.queries = nn.Parameter(torch.empty(1, config.num_queries, config.width))
        self.positions = (
            nn.Embedding(config.num_positions, in_shape.width) if config.num_positions else None
        )
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            QFormerLayer(
                config.width,
                num_heads=config.num_heads,
                ffn_width=config.ffn_width,
                source_width=(
                    in_shape.width if index % config.cross_attention_frequency == 0 else None
                ),
                dropout=config.dropout,
            )
            for index in range(config.num_layers)
        )
        nn.init.normal_(self.queries, std=config.init_std)
        self.layers.apply(partial(_init_linear, std=config.init_std))

    def forward(self, features: Features, text: Tensor | None = None) -> Features:
        """Let the queries read the incoming tokens; masked ones are not seen.

        Args:
            features: tokens float[M, T, N, D].
            text: not read.

        Returns:
            Tokens float[M, T or 1, Q, W]. A query is masked if nothing it could read is real.
        """
        tokens_MTND, mask_MTN = features.tokens, features.mask
        num_rows, num_steps = tokens_MTND.shape[:2]
        if self.positions is not None:
            self.config.out_shape(Shape(*tokens_MTND.shape[1:]))
            num_rows_used = min(num_steps, self.config.num_positions)
            added = self.positions(torch.arange(num_rows_used, device=tokens_MTND.device))
            if num_steps > num_rows_used:
                added = spread_positions(added, mask_MTN.any(dim=2))
            tokens_MTND = tokens_MTND + added.unsqueeze(-2)
        start, end = (0, 1) if self.config.over == "step" else (1, 2)
        source_RSD = tokens_MTND.flatten(start, end)
        mask_RS = mask_MTN.flatten(start, end)
        is_real_R = mask_RS.any(dim=1)
        # A row without any real token would divide by zero; its result is masked anyway.
        visible_RS = mask_RS | ~is_real_R[:, None]
        # Without dropout all rows are alike until they have read something.
        num_apart = len(source_RSD) if self.training and self.config.dropout else 1
        hidden_RQW = self.dropout(self.norm(self.queries).expand(num_apart, -1, -1))
        for layer in self.layers:
            hidden_RQW = layer(hidden_RQW, source_RSD, mask=visible_RS)
        steps_out = num_steps if self.config.over == "step" else 1
        tokens_MTQW = hidden_RQW.reshape(num_rows, steps_out, *hidden_RQW.shape[1:])
        mask_MT1 = is_real_R.reshape(num_rows, steps_out, 1)
        return Features(tokens=tokens_MTQW, mask=mask_MT1.expand(tokens_MTQW.shape[:3]))

    def repeated_layers(self) -> list[nn.Module]:
        """Return the layers in their order."""
        return list(self.layers)

    def key_map(self) -> KeyMap:
        """Return the table from BLIP-2's names (`query_tokens`, `Qformer.bert.*`) to ours."""
        return published_names(network="Qformer", queries="query_tokens")


class QFormerLayer(nn.Module):
    """Self-attention, cross-attention where there is a source, MLP; each followed by a norm.

    Args:
        width: W.
        num_heads: attention heads.
        ffn_width: hidden width of the MLP.
        source_width: D of the tokens to read, None for a layer that reads none.
        dropout: rate.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        ffn_width: int,
        source_width: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = Attention(
            width, source_width=width, num_heads=num_heads, dropout=dropout
        )
        self.cross_attention = (
            Attention(width, source_width=source_width, num_heads=num_heads, dropout=dropout)
            if source_width is not None
            else None
        )
        self.ffn = FeedForward(width, hidden_width=ffn_width, dropout=dropout)

    def forward(self, hidden: Tensor, source: Tensor, *, mask: Tensor) -> Tensor:
        """Map float[R or 1, Q, W] to float[R, Q, W], reading float[R, S, D] where bool[R, S]."""
        hidden = self.self_attention(hidden, hidden)
        if self.cross_attention is not None:
            hidden = self.cross_attention(hidden, source, mask=mask)
        return self.ffn(hidden)


class Attention(nn.Module):
    """Multi-head attention with the residual and the norm behind it, as in BERT."""

    def __init__(self, width: int, *, source_width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, source: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map float[R or 1, Q, W] to float[R, Q, W], reading float[R, S, D] where bool[R, S]."""
        attended = functional.scaled_dot_product_attention(
            self._split(self.query(hidden)).expand(len(source), -1, -1, -1),
            self._split(self.key(source)),
            self._split(self.value(source)),
            attn_mask=None if mask is None else mask[:, None, None],
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        merged = self.output(attended.transpose(1, 2).flatten(2))
        return self.norm(hidden + self.dropout(merged))

    def _split(self, tokens: Tensor) -> Tensor:
        """Give every head its slice: float[R, S, W] to float[R, heads, S, W / heads]."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """The MLP of a layer, with the residual and the norm behind it."""

    def __init__(self, width: int, *, hidden_width: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden_width)
        self.down = nn.Linear(hidden_width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map float[R, Q, W]."""
        return self.norm(hidden + self.dropout(self.down(functional.gelu(self.up(hidden)))))


def published_names(*, network: str, queries: str, positions: str | None = None) -> KeyMap:
    """Return the table from a published Q-Former's names to ours.

    Args:
        network: its prefix, e.g. "video_Qformer".
        queries: full name of its queries.
        positions: full name of the table added to its input, if it has one.
    """
    bert = f"{network}.bert"
    layer = f"{bert}.encoder.layer.*"
    text_branch = "text branch of the Q-Former, which Video-LLaMA removes"
    tables = ((positions, "positions.weight"),) if positions else ()
    return KeyMap(
        renames=(
            (queries, "queries"),
            *tables,
            (f"{bert}.embeddings.LayerNorm.*", "norm.*"),
            (f"{layer}.attention.output.dense.*", "layers.*.self_attention.output.*"),
            (f"{layer}.attention.output.LayerNorm.*", "layers.*.self_attention.norm.*"),
            (f"{layer}.crossattention.output.dense.*", "layers.*.cross_attention.output.*"),
            (f"{layer}.crossattention.output.LayerNorm.*", "layers.*.cross_attention.norm.*"),
            (f"{layer}.intermediate_query.dense.*", "layers.*.ffn.up.*"),
            (f"{layer}.output_query.dense.*", "layers.*.ffn.down.*"),
            (f"{layer}.output_query.LayerNorm.*", "layers.*.ffn.norm.*"),
            # Last, because read backwards they would also match the output and norm above.
            (f"{layer}.attention.self.**", "layers.*.self_attention.**"),
            (f"{layer}.crossattention.self.**", "layers.*.cross_attention.**"),
        ),
        drops=(
            Excuse(f"{bert}.embeddings.position_ids", "a list of indices, not a weight"),
            Excuse(f"{bert}.embeddings.word_embeddings.**", text_branch),
            Excuse(f"{bert}.embeddings.position_embeddings.**", text_branch),
            Excuse(f"{layer}.intermediate.**", text_branch),
            Excuse(f"{layer}.output.**", text_branch),
            Excuse(f"{network}.cls.**", text_branch),
        ),
        adapters={"positions.weight": extend_table},
    )


def _init_linear(layer: nn.Module, *, std: float) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
