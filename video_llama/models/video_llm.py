"""The one model: branches turn media into tokens, a causal language model reads and speaks.

Video-LLaMA, Video-LLaVA, VideoChat and VideoChat2 are presets of it. It knows nothing of files,
tokenizers or templates: token ids, slots and media tensors come in, a loss or new ids go out.

Shapes: B batch, L text, M rows of a branch, T time steps, N tokens a step, H decoder width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig
from video_llama.common.types import (
    Batch,
    Beginnings,
    BranchInput,
    BranchSpec,
    LossOutput,
    MediaItem,
)
from video_llama.models.answers import answer_prompts, answer_rows, stream_answer, tolerates_gaps
from video_llama.models.beginnings import check_length, read_beginnings
from video_llama.models.branch import Branch, BranchOutput, build_branches, row_of, to_device
from video_llama.models.branch_shapes import check_branches
from video_llama.models.decoders.placement import Placement, build_decoder
from video_llama.models.generation import StopRule
from video_llama.models.layers import recompute_where_asked
from video_llama.models.losses import fresh_frontier, sum_up
from video_llama.models.placing import place_tokens
from video_llama.models.pretrained import Pretrained
from video_llama.models.prompt_cache import PromptCache
from video_llama.models.trainable import PartRow, part_row, set_mode, set_trainable


@registry.register_model("video_llama")
@registry.register_model("video_llava")
class VideoLLM(Pretrained):
    """Branches and a decoder.

    Args:
        config: the typed `model` section.
        placement: where the decoder is loaded to, if not just onto the CPU.

    Raises:
        ConfigError: a branch does not end in the decoder's width, or two branches claim the same
            kind of media.
    """

    def __init__(self, config: ModelConfig, *, placement: Placement | None = None) -> None:
        super().__init__()
        self.config = config
        self.restored = frozenset()
        self.decoder = build_decoder(config, placement=placement)
        set_trainable(self.decoder, config.decoder.trainable, where="model.decoder")
        recompute_where_asked(self.decoder, config.decoder, where="model.decoder")
        check_branches(config, width=self.decoder.width)
        self.branches = nn.ModuleDict(build_branches(config.branches))

    @property
    def device(self) -> torch.device:
        """Where the decoder's weights are."""
        return next(self.decoder.parameters()).device

    @property
    def tolerates_gaps(self) -> bool:
        """Whether prompts may go on from `Batch.beginnings`."""
        return tolerates_gaps(self.decoder.new_cache())

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
        assert batch.beginnings is None, "beginnings are for `generate` and `score`"
        outputs = self._run_branches(batch.media)
        embeds = self.embed(batch, outputs)
        loss = self.decoder.loss(
            embeds,
            attention_mask=batch.attention_mask.to(self.device),
            labels=batch.labels.to(self.device),
        )
        return sum_up(loss, size=len(batch.keys), frontier=fresh_frontier(batch, outputs))

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
        frontier: dict[str, Tensor] = {}
        rest = replace(continuations, beginnings=Beginnings(prompts, rows))
        embed = partial(self._embed_prompts, frontier=frontier)
        cache, mask = read_beginnings(self.decoder, rest, embed=embed)
        loss = self.decoder.loss(
            self.decoder.embed(continuations.input_ids.to(self.device)),
            attention_mask=mask,
            labels=continuations.labels.to(self.device),
            cache=cache,
        )
        return sum_up(loss, size=len(rows), frontier=frontier)

    def embed(self, batch: Batch, outputs: Mapping[str, BranchOutput]) -> Tensor:
        """Embed the text and write every item's tokens into its slots.

        Returns:
            float[B, L, H].

        Raises:
            ContextOverflow: the batch is longer than the decoder's context.
            ValueError: items, slots and tokens do not agree, see `placing`.
        """
        check_length(self.decoder, batch.input_ids.shape[1], keys=batch.keys)
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
        cache, mask = read_beginnings(self.decoder, batch, embed=self._embed_prompts)
        return answer_rows(
            self.decoder,
            self._embed_prompts(batch),
            attention_mask=mask.to(self.device),
            settings=settings,
            stop=stop,
            cache=cache,
        )

    @torch.no_grad()
    def encode_items(self, items: Sequence[MediaItem]) -> list[Tensor]:
        """Run loaded media items through the branches that take their kinds.

        Args:
            items: with `pixels` or `mel`.

        Returns:
            Per item float[S, H], S decoder positions.
        """
        takers = {kind: b for b in self._branches().values() for kind in b.config.media}
        rows = ((item.kind, to_device(row_of(item), self.device)) for item in items)
        features = (takers[kind](row).features for kind, row in rows)
        return [one.tokens[one.mask] for one in features]

    @property
    def end_ids(self) -> frozenset[int]:
        """Token ids by which the decoder ends an answer."""
        return self.decoder.end_ids

    def new_prompt_cache(self) -> PromptCache:
        """Return an empty memory of what was read, for one conversation; see `stream_prompt`."""
        return PromptCache(self.decoder)

    @torch.no_grad()
    def stream_prompt(
        self,
        *,
        input_ids: Sequence[int],
        slots: Sequence[int],
        media: Sequence[Tensor],
        settings: GenerationSettings,
        stop: StopRule | None = None,
        media_keys: Sequence[str] | None = None,
        cache: PromptCache | None = None,
    ) -> Iterator[int]:
        """Yield the ids of an answer one by one, until it ends; beams all at the end.

        Args:
            input_ids: one prompt, as in `Prompt`.
            slots: as there.
            media: float[S, H] per item, as `encode_items` gave them.
            settings: length, temperature, seed.
            stop: called with row 0 and its ids after each token; by default only the decoder's
                end token and the limit end an answer.
            media_keys: identity of each item's tokens, as in `Prompt`.
            cache: what was read before; what this prompt begins with alike is not read again.
        """
        if cache is None:
            cache, media_keys = self.new_prompt_cache(), [str(k) for k in range(len(media))]
        assert cache.decoder is self.decoder, "a cache serves the model that made it"
        prompt = Prompt(input_ids, slots, media, media_keys)
        yield from stream_answer(prompt, cache=cache, settings=settings, stop=stop)

    @torch.no_grad()
    def answer_prompts(
        self,
        prompts: Sequence[Prompt],
        *,
        settings: GenerationSettings,
        stop: StopRule | None = None,
    ) -> list[list[int]]:
        """Answer prompts side by side, each as `stream_prompt` would alone.

        Args:
            prompts: independent of each other, of any lengths.
            settings: length, temperature, seed; beams are searched prompt by prompt.
            stop: called with the number of a prompt and its ids after each token.

        Returns:
            The new ids of each, its stop tokens included.
        """
        return answer_prompts(self.decoder, prompts, settings=settings, stop=stop)

    def _embed_prompts(self, batch: Batch, *, frontier: dict[str, Tensor] | None = None) -> Tensor:
        """Embed prompts or parts of them; fresh features, if there are media, go to `frontier`."""
        outputs = self._run_branches(batch.media) if batch.items else {}
        if frontier is not None:
            frontier.update(fresh_frontier(batch, outputs))
        return self.embed(batch, outputs)

    def _run_branches(self, media: Mapping[str, BranchInput]) -> dict[str, BranchOutput]:
        """Run every branch of the step's plan."""
        branches = self._branches()
        return {name: branches[name](to_device(media[name], self.device)) for name in sorted(media)}

    def _branches(self) -> dict[str, Branch]:
        """Return the branches with their type."""
        return {
            name: branch for name, branch in self.branches.items() if isinstance(branch, Branch)
        }
