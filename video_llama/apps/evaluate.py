"""`video-llama evaluate`: from a run file to accuracies by kind of question.

    python evaluate.py --cfg-path eval_configs/toy/withaudio.yaml
    torchrun --nproc_per_node=2 evaluate.py --cfg-path ... --options run.probes=[no_media]

For every question set of the run file, `output_dir/NAME/` gets `predictions.jsonl`,
`metrics.json` and, while it runs, what is needed to go on after a kill; `output_dir/metrics.json`
has the metrics of all sets by name. A set that is finished is not asked again, and if all are, the
model is not even loaded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from video_llama.apps.checks import check_start
from video_llama.apps.devices import pick_device
from video_llama.apps.evaluate_identity import identity_of
from video_llama.apps.evaluate_table import show_set
from video_llama.apps.loading import LoadedModel, load_model
from video_llama.apps.main import add_config_arguments
from video_llama.common.config import load
from video_llama.common.dist import barrier, is_main, process_group
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.heap import keep_freed_memory
from video_llama.common.logger import start_logging
from video_llama.common.registry import registry
from video_llama.common.schema import Config
from video_llama.datasets.annotations import AnnotationReader
from video_llama.datasets.sample_encoder import TextSettings
from video_llama.models.fidelity import fidelity_of
from video_llama.models.precision import autocast
from video_llama.runners.data import open_encoder
from video_llama.tasks.predictions import Prediction, PredictionStore
from video_llama.tasks.probes import get_probes
from video_llama.tasks.prompting import Prompter
from video_llama.tasks.question_answering import QuestionAnswering
from video_llama.tasks.questions import Question, read_question
from video_llama.tasks.scoreboard import KindScore, read_ceilings, score, to_metrics

METRICS_NAME = "metrics.json"


@dataclass(frozen=True)
class QuestionSet:
    """One entry of the run file.

    Attributes:
        name: of the entry.
        annotations: the file or folder its questions come from, the first of several.
        questions: those that can be asked.
        unreadable: why the others cannot, by key.
        store: where its predictions are kept.
    """

    name: str
    annotations: Path
    questions: list[Question]
    unreadable: dict[str, str]
    store: PredictionStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    add_config_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Evaluate and print the tables.

    Raises:
        VideoLlamaError: the run file, the files it names or the data are wrong.
    """
    start_logging()
    evaluate(load(args.cfg_path, options=args.options))
    return 0


def evaluate(config: Config) -> dict[str, list[KindScore]]:
    """Ask every question set of a run file; what was asked before is kept.

    Args:
        config: the typed run file; its data sets are question sets.

    Returns:
        The table of every set, by name, the same on every rank.

    Raises:
        VideoLlamaError: the run file, the files it names or the data are wrong.
    """
    start_logging()
    settings = asking_settings(config)
    readers = open_question_sets(config)
    check_start(config, readers, learning=False)
    device = pick_device(config.run)
    with process_group(device) as world:
        device = world.own_device(device)
        if device == "cpu":
            keep_freed_memory()
        sets = [_open_set(config, reader, settings=settings) for reader in readers.values()]
        if all(asked.store.is_complete() for asked in sets):
            predictions = [asked.store.collect() for asked in sets]
        else:
            predictions = _ask(config, sets, device=device, rank=world.rank)
        # Before any rank leaves, a finished set must be one for all.
        barrier()
        tables = {
            asked.name: report_set(config, asked, predictions=told, position=position)
            for position, (asked, told) in enumerate(zip(sets, predictions, strict=True))
        }
        if is_main():
            _write_summary(Path(config.run.output_dir), sets)
        return tables


def build_prompter(config: Config, loaded: LoadedModel, *, rank: int = 0) -> Prompter:
    """Join a model to the media and texts of its questions, with the feature cache of training.

    Args:
        config: the typed run file.
        loaded: the model with its tokenizer and template.
        rank: of this process, names its cache files.
    """
    specs = loaded.model.branch_specs(fingerprint=config.run.feature_cache is not None)
    text = TextSettings(loaded.template, loaded.tokenizer, max_len=config.model.max_txt_len)
    return Prompter(
        open_encoder(config, specs=specs, text=text, rank=rank),
        shares_beginnings=loaded.model.tolerates_gaps,
    )


def report_set(
    config: Config, asked: QuestionSet, *, predictions: Sequence[Prediction], position: int
) -> list[KindScore]:
    """Score a finished set; rank zero writes `metrics.json` and prints the table.

    Args:
        config: the typed run file.
        asked: the set.
        predictions: all of its questions'.
        position: of the set in the run file, so that a report keeps the order.

    Raises:
        MediaError: too large a share of the questions could not be asked.
    """
    folder = asked.annotations if asked.annotations.is_dir() else asked.annotations.parent
    rows = score(predictions, ceilings=read_ceilings(folder), bars=config.run.bars)
    metrics = {
        "dataset": asked.name,
        "position": position,
        **to_metrics(rows, predictions=predictions),
    }
    judged = fidelity_of(config.model)
    if judged is not None and not judged.is_exact:
        metrics["fidelity"] = judged.verdict
    metrics["unusable"] |= asked.unreadable
    metrics["num_unusable"] = len(metrics["unusable"])
    num = metrics["num_questions"]
    metrics["coverage"] = num / ((num + metrics["num_unusable"]) or 1)
    if is_main():
        text = json.dumps(metrics, indent=2) + "\n"
        (asked.store.folder / METRICS_NAME).write_text(text, encoding="utf-8")
        show_set(rows, metrics=metrics, folder=asked.store.folder)
    _check_skips(asked, metrics=metrics, max_skip_rate=config.run.max_skip_rate)
    return rows


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far rank zero has come.

    Args:
        name: of the question set.

    Yields:
        A function that takes the questions done and all there are.
    """
    if not is_main():
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("questions, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _write_summary(folder: Path, sets: Sequence[QuestionSet]) -> None:
    """Put the metrics of all sets into one file."""
    metrics = {
        asked.name: json.loads((asked.store.folder / METRICS_NAME).read_text(encoding="utf-8"))
        for asked in sets
    }
    (folder / METRICS_NAME).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def asking_settings(config: Config) -> QuestionAnswering.Config:
    """Read how to ask from the run section.

    Raises:
        ConfigError: the task asks no questions, or a probe is unknown.
    """
    run = config.run
    task = registry.get_task_class(run.task)
    if not issubclass(task, QuestionAnswering):
        raise ConfigError(
            f"run.task: evaluate asks questions, task '{run.task}' does not; set "
            "run.task: question_answering"
        )
    get_probes(run.probes)
    return QuestionAnswering.Config(
        probes=run.probes,
        probe_questions=run.probe_questions,
        max_new_tokens=run.max_new_tokens,
        batch_size=run.batch_size_eval,
        # Two questions a clip or more: enough to fill a batch.
        clips_per_chunk=max(QuestionAnswering.Config.clips_per_chunk, run.batch_size_eval // 2),
        seed=run.seed,
    )


def open_question_sets(config: Config) -> dict[str, AnnotationReader]:
    """Open the question sets of a run file; nothing is read yet.

    Raises:
        ConfigError: there is none, or one has no file of annotations.
    """
    if not config.datasets:
        raise ConfigError("datasets: there is no question set; add an entry of type mvbench")
    readers: dict[str, AnnotationReader] = {}
    for name, entry in config.datasets.items():
        reader = registry.get_dataset_class(entry.type)(entry.config, name=name)
        if not isinstance(reader, AnnotationReader):
            raise ConfigError(
                f"datasets.{name}: type '{entry.type}' has no file of annotations, by which "
                "results are told apart; ask the set it was packed from"
            )
        readers[name] = reader
    return readers


def _open_set(
    config: Config, reader: AnnotationReader, *, settings: QuestionAnswering.Config
) -> QuestionSet:
    """Read the questions of one entry and claim its folder."""
    questions: list[Question] = []
    unreadable: dict[str, str] = {}
    for index in range(len(reader)):
        try:
            questions.append(read_question(reader.sample(index)))
        except MediaError as error:
            unreadable[reader.key(index)] = str(error)
    identity = identity_of(config, reader=reader, settings=settings)
    store = PredictionStore(Path(config.run.output_dir) / reader.name, identity=identity)
    return QuestionSet(reader.name, Path(reader.sources[0]), questions, unreadable, store)


def _ask(
    config: Config, sets: Sequence[QuestionSet], *, device: str, rank: int
) -> list[list[Prediction]]:
    """Load the model and ask every set what it was not asked before."""
    # Parts that start from random weights are the same on every rank and in every start.
    torch.manual_seed(config.run.seed)
    loaded = load_model(config, device=device)
    prompter = build_prompter(config, loaded, rank=rank)
    task = QuestionAnswering(asking_settings(config), prompter=prompter)
    predictions = []
    for asked in sets:
        with progress_bar(asked.name) as show, autocast(config.run.precision, device=device):
            predictions.append(
                task.evaluate(loaded.model, asked.questions, store=asked.store, on_progress=show)
            )
    return predictions


def _check_skips(asked: QuestionSet, *, metrics: dict[str, Any], max_skip_rate: float) -> None:
    """Refuse a result of which too much is missing."""
    unusable: dict[str, str] = metrics["unusable"]
    total = metrics["num_questions"] + len(unusable)
    if len(unusable) > max_skip_rate * total:
        first = next(iter(unusable.values()))
        raise MediaError(
            f"datasets.{asked.name}: {len(unusable)} of {total} questions could not be asked, "
            f"run.max_skip_rate allows {max_skip_rate:g}; the first: {first}"
        )
