"""Ask a model questions about clips and score its answers, with and without probes.

Open and yes/no questions are answered by greedy generation. Multiple choice is scored without
letters: the open question is asked, and the option whose text is the most likely answer, by mean
log-likelihood per token, is the chosen one. A clip is loaded and encoded once for all its
questions. Does not know files of weights, command lines or tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from video_llama.common import dist
from video_llama.common.errors import MediaError
from video_llama.common.generation import GenerationSettings
from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.types import MediaItem, Sample
from video_llama.tasks.answering import Answer, MediaEncoder, answer_questions
from video_llama.tasks.answers import is_correct
from video_llama.tasks.base import Model
from video_llama.tasks.predictions import NO_PROBE, Prediction, PredictionStore, Shown
from video_llama.tasks.probes import Probe, alter, get_probes, partners, with_media
from video_llama.tasks.prompting import Prompter
from video_llama.tasks.questions import Question, chunks, fair_shares, first_of_each_kind

Clip = tuple[Shown, ...]
Media = Mapping[Clip, list[MediaItem]]


@registry.register_task("question_answering")
class QuestionAnswering:
    """Measures accuracy on a set of questions.

    Args:
        config: how to ask.
        prompter: makes batches.
    """

    @dataclass(frozen=True)
    class Config:
        """How to ask.

        Attributes:
            probes: names in `tasks.probes.PROBES`.
            probe_questions: questions per kind that are asked under each probe, None for all.
            max_new_tokens: longest generated answer.
            batch_size: samples per forward pass.
            clips_per_chunk: clips held in memory together; also the unit that an interrupted
                evaluation keeps, and the circle in which clips are swapped.
            seed: of shuffles and swaps.
        """

        probes: tuple[str, ...] = ()
        probe_questions: int | None = None
        max_new_tokens: int = 32
        batch_size: int = 16
        clips_per_chunk: int = 32
        seed: int = 0

        def __post_init__(self) -> None:
            if self.batch_size < 1:
                raise ValueError(f"batch_size must be at least 1, found {self.batch_size}")
            if self.clips_per_chunk < 2:
                raise ValueError(
                    f"clips_per_chunk must be at least 2 (clips are swapped within a chunk), "
                    f"found {self.clips_per_chunk}"
                )

    def __init__(self, config: Config, *, prompter: Prompter) -> None:
        self.config = config
        self.prompter = prompter
        self.probes: list[Probe | None] = [None, *get_probes(config.probes)]
        self.settings = GenerationSettings(max_new_tokens=config.max_new_tokens, temperature=0.0)

    @torch.no_grad()
    def evaluate(
        self,
        model: Model,
        questions: Sequence[Question],
        *,
        store: PredictionStore,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction]:
        """Ask every question, under every probe that concerns it.

        Args:
            model: in evaluation mode.
            questions: the whole set, the same on every rank.
            store: keeps finished chunks; what it has is not computed again.
            on_progress: told this rank's finished questions and all it has to ask.

        Returns:
            All predictions of all ranks, the same on every rank and for any number of ranks.
        """
        pieces = chunks(questions, clips_per_chunk=self.config.clips_per_chunk)
        probed = first_of_each_kind(questions, limit=self.config.probe_questions)
        finished = store.finished()
        # Nobody may add a chunk before everybody has read what there is to do.
        dist.barrier()
        world = dist.read_world()
        todo = [index for index in range(len(pieces)) if index not in finished]
        costs = {index: self._num_asked(pieces[index], probed=probed) for index in todo}
        shares = fair_shares(costs, num_shares=world.size)
        mine = [] if store.is_complete() else shares[world.rank]
        done, total = 0, sum(len(pieces[index]) for index in mine)
        for index in mine:
            store.add(index, self.answer_chunk(model, pieces[index], probed=probed))
            done += len(pieces[index])
            on_progress(done, total)
        self.prompter.flush()
        return store.collect()

    def answer_chunk(
        self, model: Model, questions: Sequence[Question], *, probed: set[str]
    ) -> list[Prediction]:
        """Answer the questions about a few clips, under all probes.

        Args:
            model: in evaluation mode.
            questions: about clips that no other chunk has.
            probed: keys of the questions that are asked under the probes.
        """
        loaded, broken = self._load(questions)
        other = _choose_partners(loaded, seed=self.config.seed)
        encoder = MediaEncoder(model, prompter=self.prompter, batch_size=self.config.batch_size)
        predictions = [
            _predict(question, error=broken[question.shown])
            for question in questions
            if question.shown in broken
        ]
        for probe in self.probes:
            asked = [
                question
                for question in questions
                if (probe is None or question.sample.key in probed)
                and question.shown in loaded
                and (probe is None or _concerns(probe, question, other))
            ]
            clips = dict.fromkeys(question.shown for question in asked)
            raw = loaded
            if probe is not None and probe.needs_pixels:
                samples = {question.shown: question.sample for question in asked}
                raw = {c: self._raw(s, loaded[c], probe=probe) for c, s in samples.items()}
            altered = {clip: self._alter(clip, probe, raw, other) for clip in clips}
            # All clips together first, for full batches; then each clip finds its own.
            encoder.encode([item for items in altered.values() for item in items])
            shown = {clip: encoder.encode(items) for clip, items in altered.items()}
            answers = self._answer(model, asked, shown)
            predictions += [
                _predict(question, answer=answer, probe=probe)
                for question, answer in zip(asked, answers, strict=True)
            ]
        return predictions

    def _num_asked(self, questions: Sequence[Question], *, probed: set[str]) -> int:
        """Count about how many answers a chunk takes, probes included."""
        num_probed = sum(question.sample.key in probed for question in questions)
        return len(questions) + num_probed * (len(self.probes) - 1)

    def _load(self, questions: Sequence[Question]) -> tuple[Media, dict[Clip, str]]:
        """Load every clip once; name those that cannot be used."""
        loaded: dict[Clip, list[MediaItem]] = {}
        broken: dict[Clip, str] = {}
        for question in questions:
            clip = question.shown
            if clip in loaded or clip in broken:
                continue
            try:
                loaded[clip] = self.prompter.load(question.sample)
            except MediaError as error:
                broken[clip] = str(error)
                get_logger().warning("left out: %s", error)
        return loaded, broken

    def _raw(self, sample: Sample, items: Sequence[MediaItem], *, probe: Probe) -> list[MediaItem]:
        """Read again what a probe alters and only features are at hand of."""
        wanted = [item.features is not None and item.kind in probe.alters for item in items]
        named = [n if want else None for n, want in zip(sample.media, wanted, strict=True)]
        read = iter(self.prompter.load_raw(with_media(sample, named)))
        return [next(read) if want else item for item, want in zip(items, wanted, strict=True)]

    def _answer(
        self,
        model: Model,
        questions: Sequence[Question],
        shown: Mapping[Clip, Sequence[MediaItem | None]],
    ) -> list[Answer]:
        """Ask questions with these media in place of their own."""
        prepared = [
            dataclasses.replace(q, sample=with_media(q.sample, shown[q.shown])) for q in questions
        ]
        return answer_questions(
            model,
            prepared,
            prompter=self.prompter,
            settings=self.settings,
            batch_size=self.config.batch_size,
        )

    def _alter(
        self, clip: Clip, probe: Probe | None, loaded: Media, other: Mapping[Clip, Clip]
    ) -> Sequence[MediaItem | None]:
        """Apply a probe to the media of one clip."""
        if probe is None:
            return loaded[clip]
        return alter(
            loaded[clip],
            probe,
            partner=loaded[other[clip]] if probe.needs_partner and clip in other else None,
            audio_spec=self.prompter.audio_spec,
            seed=self.config.seed,
        )


def _choose_partners(loaded: Media, *, seed: int) -> dict[Clip, Clip]:
    """Give every clip of the chunk another one of its signature."""
    names = {repr(clip): clip for clip in loaded}
    kinds = {name: tuple(item.kind for item in loaded[clip]) for name, clip in names.items()}
    chosen = partners(kinds, seed=seed)
    return {names[name]: names[partner] for name, partner in chosen.items()}


def _concerns(probe: Probe, question: Question, other: Mapping[Clip, Clip]) -> bool:
    """Say whether a probe would change what a question is asked about."""
    if probe.needs_partner and question.shown not in other:
        return False
    return any(item.kind in probe.alters for item in question.sample.media)


def _predict(
    question: Question,
    *,
    answer: Answer | None = None,
    probe: Probe | None = None,
    error: str | None = None,
) -> Prediction:
    """Score an answer, or note why there is none."""
    text = "" if answer is None else answer.text
    # A choice is among texts as they stand; a colon in an option separates no evidence.
    correct = text == question.answer if question.form == "multiple_choice" else None
    return Prediction(
        key=question.sample.key,
        probe=NO_PROBE if probe is None else probe.name,
        kind=question.kind,
        form=question.form,
        question=question.text,
        answer=question.answer,
        prediction=text,
        correct=is_correct(text, question.answer) if correct is None else correct,
        candidates=question.candidates,
        scores=() if answer is None else answer.scores,
        media=question.shown,
        error=error,
    )
