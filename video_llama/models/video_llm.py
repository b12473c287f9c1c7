"""The one model: branches turn media into tokens, a causal language model reads and speaks.

Video-LLaMA, Video-LLaVA, VideoChat and VideoChat2 are presets of it. It knows nothing of files,
tokenizers or templates: token ids, slots and media tensors come in, a loss or new ids go out.

Shapes: B batch, L text, M rows of a branch, T time steps, N tokens a step, H decoder width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from video_llama.common.errors import ContextOverflow
from video_llama.common.generation import GenerationSettings
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig
from video_llama.common.types import Batch, BranchInput, BranchSpec, LossOutput, MediaItem
from video_llama.models.beams import stream_answer
from video_llama.models.branch import Branch, BranchOutput, check_branches, to_device
from video_llama.models.decoders.base import TokenLosses
from video_llama.models.generation import StopRule, stream_ids
from video_llama.models.layers import recompute_where_asked
from video_llama.models.placing import place_tokens
from video_llama.models.pretrained import Pretrained
from video_llama.models.trainable import PartRow, part_row, set_mode, set_trainable


@registry.register_model("video_llama")
class VideoLLM(Pretrained):
    """Branches and a decoder.

    Args:
        config: the typed `model` section.

    Raises:
        ConfigError: a branch does not end in the decoder's width, or two branches claim the same
            kind of media.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.restored = frozenset()
        decoder_class = registry.get_decoder_class(config.decoder.type)
        self.decoder = decoder_class(config.decoder)
        set_trainable(self.decoder, config.decoder.trainable, where="model.decoder")
        recompute_where_asked(self.decoder, config.decoder, where="model.decoder")
        check_branches(config, width=self.decoder.width)
        self.branches = nn.ModuleDict(
            {name: Branch(branch, name=name) for name, branch in config.branches.items()}
        )

    @property
    def device(self) -> torch.device:
        """Where the decoder's weights are."""
        return next(self.decoder.parameters()).device

    @property
    def max_context(self) -> int:
        """Decoder positions there are, prompt and answer together."""
        return self.decoder.max_context

    def branch_specs(self, *, fingerprint: bool = False) -> dict[str, BranchSpec]:
        """Return what the data side must know of every branch, by name.

        Args:
            fingerprint: also identify the frozen weights, for the feature cache.
        """
        return {
            name: branch.branch_spec(fingerprint=fingerprint)
            for name, branch in self._branches().items()
        }

    def rows(self) -> list[PartRow]:
        """Return the table of parts: type, parameters, dtype, source of the weights."""
        decoder = self.config.decoder
        unfilled = "model.ckpt" if self.config.ckpt else "fresh"
        rows = [
            row for branch in self._branches().values() for row in branch.rows(unfilled=unfilled)
        ]
        rows.append(
            part_row(
                self.decoder,
                name="decoder",
                type_name=decoder.type,
                weights=decoder.weights or "fresh",
            )
        )
        return rows

    def train(self, mode: bool = True) -> VideoLLM:
        """Set the mode; parts that do not learn stay in eval."""
        self.training = mode
        for branch in self._branches().values():
            branch.train(mode)
        set_mode(self.decoder, mode)
        return self

    def forward(self, batch: Batch) -> LossOutput:
        """Compute the loss of a batch.

        Args:
            batch: as `datasets.collate` makes it; `media` names every branch of the step's plan,
                with no row if there is nothing for it.

        Returns:
            Cross entropy summed over supervised tokens, with the counts to normalise by.
        """
        outputs = self._run_branches(batch.media)
        embeds = self.embed(batch, outputs)
        loss = self.decoder.loss(
            embeds,
            attention_mask=batch.attention_mask.to(self.device),
            labels=batch.labels.to(self.device),
        )
        return _sum_up(loss, size=len(batch.keys), frontier=_frontier_by_key(batch, outputs))

    @torch.no_grad()
    def score(self, prompts: Batch, *, continuations: Batch, rows: Sequence[int]) -> LossOutput:
        """Compute the losses of continuations of prompts; each prompt is read once.

        Args:
            prompts: padded on the left; labels are ignored.
            continuations: text alone, padded on the right. The first token of each is the last one
                of its prompt's text, left out there, because the next is predicted from it.
            rows: of each continuation, the row of the prompt it belongs to.

        Returns:
            What `forward` gives for prompts and continuations in one, sample by sample.

        Raises:
            ContextOverflow: a prompt and its continuation are longer than the decoder's context.
        """
        outputs = self._run_branches(prompts.media)
        index = torch.as_tensor(rows, device=self.device)
        before = prompts.attention_mask.to(self.device)
        mask = torch.cat([before[index], continuations.attention_mask.to(self.device)], dim=1)
        self._check_length(int(mask.sum(dim=1).max()), keys=continuations.keys)
        cache = self.decoder.new_cache()
        self.decoder.step(self.embed(prompts, outputs), attention_mask=before, cache=cache)
        cache.reorder_cache(index)  # type: ignore[arg-type]
        loss = self.decoder.loss(
            self.decoder.embed(continuations.input_ids.to(self.device)),
            attention_mask=mask,
            labels=continuations.labels.to(self.device),
            cache=cache,
        )
        return _sum_up(loss, size=len(rows), frontier=_frontier_by_key(prompts, outputs))

    def embed(self, batch: Batch, outputs: Mapping[str, BranchOutput]) -> Tensor:
        """Embed the text and write every item's tokens into its slots.

        Returns:
            float[B, L, H].

        Raises:
            ContextOverflow: the batch is longer than the decoder's context.
            ValueError: items, slots and tokens do not agree, see `placing`.
        """
        self._check_length(batch.input_ids.shape[1], keys=batch.keys)
        embeds = self.decoder.embed(batch.input_ids.to(self.device))
        return place_tokens(embeds, batch, {name: o.features for name, o in outputs.items()})

    @torch.no_grad()
    def generate(
        self, batch: Batch, *, settings: GenerationSettings, stop: StopRule | None = None
    ) -> list[list[int]]:
        """Answer every prompt of a left-padded batch.

        Args:
            batch: prompts; labels are ignored.
            settings: length, temperature, seed; one beam.
            stop: called with a row and its ids after each token; by default only the decoder's
                end token stops a row.

        Returns:
            The new ids of each row, its stop tokens included.

        Raises:
            ValueError: more than one beam.
        """
        if settings.num_beams > 1:
            raise ValueError("beams answer one prompt at a time; use `stream_prompt`")
        rows: list[list[int]] = [[] for _ in batch.keys]
        embeds = self.embed(batch, self._run_branches(batch.media))
        mask = batch.attention_mask.to(self.device)
        for ids in stream_ids(
            self.decoder, embeds, attention_mask=mask, settings=settings, stop=stop
        ):
            for row, token in zip(rows, ids, strict=True):
                if token is not None:
                    row.append(token)
        return rows

    @torch.no_grad()
    def encode_items(self, items: Sequence[MediaItem]) -> list[Tensor]:
        """Run loaded media items through the branches that take their kinds.

        Args:
            items: with `pixels` or `mel`.

        Returns:
            Per item float[S, H], S decoder positions.
        """
        takers = {kind: b for b in self._branches().values() for kind in b.config.media}
        tokens = []
        for item in items:
            raw = item.pixels if item.pixels is not None else item.mel
            assert raw is not None, f"{item.path} was not loaded"
            mask = torch.ones(1, len(raw), dtype=torch.bool)
            row = BranchInput(raw=raw[None], raw_mask=mask, raw_rows=torch.zeros(1).long())
            features = takers[item.kind](to_device(row, self.device)).features
            tokens.append(features.tokens[features.mask])
        return tokens

    @torch.no_grad()
    def stream_prompt(
        self,
        *,
        input_ids: Sequence[int],
        slots: Sequence[int],
        media: Sequence[Tensor],
        settings: GenerationSettings,
        stop: StopRule | None = None,
    ) -> Iterator[int]:
        """Yield the ids of an answer one by one, until it ends; beams all at the end.

        Args:
            input_ids: one prompt of L ids; 0 at media positions.
            slots: 0 for text, k for a token of `media[k - 1]`; L of them. Where a prompt was cut
                there are fewer places than tokens, and the last tokens stand in them.
            media: float[S, H] per item, as `encode_items` gave them.
            settings: length, temperature, seed.
            stop: called with row 0 and its ids after each token; by default only the decoder's
                end token and the limit end an answer.
        """
        embeds = self.decoder.embed(torch.tensor([input_ids], device=self.device)).clone()
        places = torch.tensor(slots, device=self.device)
        for number, tokens in enumerate(media, start=1):
            is_here = places == number
            first = len(tokens) - int(is_here.sum())
            embeds[0, is_here] = tokens[first:].to(embeds.dtype)
        mask = torch.ones(1, len(input_ids), dtype=torch.bool, device=self.device)
        yield from stream_answer(
            self.decoder, embeds, attention_mask=mask, settings=settings, stop=stop
        )

    def _check_length(self, length: int, *, keys: Sequence[str]) -> None:
        """Refuse what the decoder's context does not hold."""
        if length > self.decoder.max_context:
            raise ContextOverflow(
                f"{', '.join(keys)}: {length} positions, the decoder's context holds "
                f"{self.decoder.max_context}; use fewer frames or shorten the text"
            )

    def _run_branches(self, media: Mapping[str, BranchInput]) -> dict[str, BranchOutput]:
        """Run every branch of the step's plan."""
        branches = self._branches()
        return {name: branches[name](to_device(media[name], self.device)) for name in sorted(media)}

    def _branches(self) -> dict[str, Branch]:
        """Return the branches with their type."""
        return {
            name: branch for name, branch in self.branches.items() if isinstance(branch, Branch)
        }


def _sum_up(loss: TokenLosses, *, size: int, frontier: dict[str, Tensor]) -> LossOutput:
    """Sum the losses of `size` samples, one by one and all together."""
    device = loss.token_loss.device
    return LossOutput(
        loss_sum=loss.token_loss.sum(),
        num_targets=torch.tensor(loss.token_loss.numel(), device=device),
        sample_loss=torch.zeros(size, device=device).index_add_(
            0, loss.sample_index, loss.token_loss.detach()
        ),
        sample_targets=torch.bincount(loss.sample_index, minlength=size),
        frontier=frontier,
    )


def _frontier_by_key(batch: Batch, outputs: Mapping[str, BranchOutput]) -> dict[str, Tensor]:
    """Collect the fresh frontier features of items that want to be cached, valid steps only."""
    found = {}
    for name, output in outputs.items():
        raw_rows = batch.media[name].raw_rows.tolist()
        place = {row: index for index, row in enumerate(raw_rows)}
        for item in batch.items:
            if item.branch == name and item.feature_key is not None and item.row in place:
                index = place[item.row]
                steps = output.frontier.mask[index].any(dim=-1)
                found[item.feature_key] = output.frontier.tokens[index][steps].detach()
    return found
