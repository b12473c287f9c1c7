"""The typed shape of a run file; plain data without behaviour but range checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from video_llama.common.errors import ConfigError
from video_llama.common.run_checks import run_problems
from video_llama.common.types import MediaKind
from video_llama.common.valid import Valid
from video_llama.common.zero import Zero

Precision = Literal["bf16", "fp16", "fp32"]
"""What the parts that learn compute in, see `models.precision`."""

CompileBackend = Literal["inductor", "aot_eager", "eager"]
"""Of torch.compile; the last two trace layers and leave them uncompiled, to find what cannot be."""

LowResource = Literal["none", "8bit", "4bit"]
"""What the linear layers of a decoder are kept in: their own dtype, int8, or nf4."""

DeviceMap = Literal["none", "auto"] | dict[str, str]
"""Where a decoder's modules go: to the model's device, spread over the GPUs, or one by one."""

FRESH = "fresh"
"""In place of a file of weights: the part starts from random values, whatever `ckpt` holds."""


@dataclass(frozen=True)
class PartConfig:
    """One part of a model: an encoder, a stage of a bridge, or the decoder.

    Attributes:
        type: registered name of the class.
        weights: file or directory the part is loaded from; None if it comes from `model.ckpt`, or,
            where there is no such checkpoint, starts from random values; `fresh` declares that.
        trainable: whether it learns; a list of patterns trains the matching parameters only.
        lr: peak learning rate of the part; it follows the run's schedule on this scale. None for
            the run's own, `run.init_lr`.
        gradient_checkpointing: compute its layers again in the backward pass instead of keeping
            what they computed: less memory, more time, equal gradients.
        share: of a stage that is another branch's, the owner as `branch.stage`; all that is said
            of the part is said there, and only `type` and `config` are repeated here.
        config: an instance of the class's own `Config`.
    """

    type: str
    config: Any
    weights: str | None = None
    trainable: bool | tuple[str, ...] = False
    lr: float | None = None
    gradient_checkpointing: bool = False
    share: str | None = None

    def __post_init__(self) -> None:
        if self.lr is None:
            return
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, found {self.lr}; trainable: false freezes")
        if not self.trainable:
            raise ValueError(
                f"lr is {self.lr}, but the part does not learn; set `trainable`, or take lr out"
            )

    @property
    def file(self) -> str | None:
        """Where the part is loaded from, None if nowhere."""
        return None if self.weights == FRESH else self.weights


@dataclass(frozen=True)
class BranchConfig:
    """From pixels or sound to decoder-width tokens.

    Attributes:
        media: kinds of media items this branch turns into tokens.
        encoder: the network that sees or hears.
        stages: what stands between encoder and decoder, in order, by name.
    """

    media: tuple[MediaKind, ...]
    encoder: PartConfig
    stages: dict[str, PartConfig]


@dataclass(frozen=True)
class ModelConfig:
    """The `model` section, preset and run file merged.

    Attributes:
        arch: system whose published checkpoints are understood, see `models/released`.
        model_type: preset the section started from.
        branches: by name; one set to null in a run file is not built.
        decoder: the language model.
        template: name of the conversation template, see docs/templates.md; `tokenizer` takes the
            chat template in the decoder's directory.
        tokenizer: directory of the tokenizer, None for the decoder's own.
        frame_times: tell the decoder at which seconds the frames were taken; a chat with a
            released template does not tell it of a clip shown with its sound, because the
            published sentence that introduces both has no seconds.
        max_txt_len: longest training sample in decoder positions, slots included.
        ckpt: trained branches to start from: a run's checkpoint or a published file.
        ckpt_2: a second one, read after `ckpt` (the audio branch, as published).
        compat: `released` gives the published quirks of training, media and chat, `corrected`
            does not; see docs/parity.md.
        low_resource: keep the linear layers of the decoder in 8 or 4 bits; for talking to a model,
            and for training what lies before or beside them.
        paths: the preset's own keys for files, e.g. `llama_model`.
    """

    arch: str
    model_type: str
    branches: dict[str, BranchConfig]
    decoder: PartConfig
    template: str
    tokenizer: str | None = None
    frame_times: bool = True
    max_txt_len: int = 512
    ckpt: str | None = None
    ckpt_2: str | None = None
    compat: Literal["corrected", "released"] = "corrected"
    low_resource: LowResource = "none"
    paths: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetEntry:
    """One entry of the `datasets` section.

    Attributes:
        type: registered name of the reader.
        config: an instance of the reader's own `Config`.
        split: what the entry is for.
        sample_ratio: weight of the data set in the training mixture.
        augment: random_crop as published, or none (needed for the feature cache).
    """

    type: str
    config: Any
    split: Literal["train", "valid", "test"] = "train"
    sample_ratio: float = 1.0
    augment: Literal["none", "random_crop"] = "none"

    def __post_init__(self) -> None:
        if self.sample_ratio <= 0:
            raise ValueError(f"sample_ratio must be above 0, found {self.sample_ratio}")


@dataclass(frozen=True)
class RunConfig:
    """The `run` section, in LAVIS's words.

    Attributes:
        task: registered name of what is done with the model.
        output_dir: everything the run writes goes below it.
        lr_sched: registered name of the schedule.
        lr_decay_rate: factor per epoch of `linear_warmup_step_lr`, which needs it.
        init_lr: peak learning rate.
        min_lr: where the schedule ends.
        warmup_lr: where the warm-up starts.
        warmup_steps: optimizer steps of warm-up.
        warmup_ratio: the same as a share of all steps, rounded up; instead of `warmup_steps`.
        weight_decay: of matrices; norms and biases have none.
        beta2: second moment decay of AdamW.
        max_epoch: epochs to train; an epoch is `iters_per_epoch` iterations.
        iters_per_epoch: forward passes per rank in an epoch; auto is one pass over the training
            data, all sets together.
        batch_size_train: samples per rank and iteration.
        batch_size_eval: samples per rank and evaluation batch.
        num_workers: processes per rank that read media; 0 reads in the main process.
        accum_grad_iters: iterations per optimizer step.
        group_by_length: make batches of samples of one kind of medium and of like length, in text
            and media together, so that little of them is padding.
        grad_clip_norm: largest gradient norm, None for no clipping.
        seed: everything random is a function of it.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: spread the decoder over devices, for talking to a model that one GPU does not
            hold; branches stay on `device`.
        precision: what the parts that learn compute in; frozen parts keep their own dtype.
        compile: torch.compile the layers that gradients pass; true is inductor.
        log_freq: optimizer steps between log lines.
        tracker: where the numbers go besides metrics.jsonl and TensorBoard.
        peak_tflops: of one GPU in the run's precision, for the MFU; None for what is known of it.
        save_freq: epochs between checkpoints, or steps as in `500 steps`.
        async_save: write checkpoints beside the training, from a copy in host memory.
        keep_last: checkpoints kept besides the best.
        valid_freq: epochs between validations, unless `valid.every` says otherwise.
        valid: on what, how often, and which metric decides the best checkpoint.
        resume_ckpt_path: auto continues the newest complete checkpoint of `output_dir`.
        feature_cache: directory for the outputs of the frozen encoders.
        max_skip_rate: share of unusable samples above which the run stops.
        video_reader: what decodes clips; decord resizes otherwise, as the file is decoded.
        decode_timeout_s: seconds a sample's media may take; they are decoded in a process that may
            crash or hang. None decodes in the process that reads, which is then on its own.
        ledger: keep what every sample of every step was made of, for `video-llama replay`.
        on_nan: what becomes of a step whose loss or gradients are not finite.
        on_spike: what becomes of a step whose loss is more than `spike_factor` times the median of
            the last good ones of its data set, or its gradient norm more than the factor's square.
        spike_factor: see `on_spike`.
        max_bad_steps: steps left out in a row above which the run stops.
        collective_timeout_s: seconds in which no rank moves after which a run of several ends, with
            the names of those that are behind.
        engine: how ranks work together; auto is ddp if there are several.
        zero: what deepspeed divides among the ranks; None for its defaults.
        probes: altered inputs an evaluation is repeated with, see `tasks.probes`.
        probe_questions: questions per kind that are asked under each probe, None for all.
        bars: lowest accuracy aimed at, by kind of question.
        max_new_tokens: longest generated answer.
    """

    task: str
    output_dir: str
    lr_sched: str = "linear_warmup_cosine_lr"
    lr_decay_rate: float | None = None
    init_lr: float = 1e-4
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_steps: int = 0
    warmup_ratio: float | None = None
    weight_decay: float = 0.05
    beta2: float = 0.999
    max_epoch: int = 1
    iters_per_epoch: int | Literal["auto"] = 1
    batch_size_train: int = 1
    batch_size_eval: int = 1
    num_workers: int = 0
    accum_grad_iters: int = 1
    group_by_length: bool = False
    grad_clip_norm: float | None = 1.0
    seed: int = 42
    device: str = "auto"
    device_map: DeviceMap = "none"
    precision: Precision = "fp32"
    compile: bool | CompileBackend = False
    log_freq: int = 10
    tracker: Literal["none", "wandb", "trackio"] = "none"
    peak_tflops: float | None = None
    save_freq: int | str = 1
    async_save: bool = True
    keep_last: int = 2
    valid_freq: int = 1
    valid: Valid = field(default_factory=Valid)
    resume_ckpt_path: str | None = None
    feature_cache: str | None = None
    max_skip_rate: float = 0.05
    video_reader: Literal["pyav", "decord"] = "pyav"
    decode_timeout_s: float | None = 60.0
    ledger: bool = True
    on_nan: Literal["stop", "skip"] = "stop"
    on_spike: Literal["ignore", "skip", "stop"] = "ignore"
    spike_factor: float = 3.0
    max_bad_steps: int = 10
    collective_timeout_s: float = 600.0
    engine: Literal["auto", "ddp", "deepspeed"] = "auto"
    zero: Zero | None = None
    probes: tuple[str, ...] = ()
    probe_questions: int | None = None
    bars: dict[str, float] = field(default_factory=dict)
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        problems = run_problems(self)
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Config:
    """A whole run file, resolved and typed.

    Attributes:
        model: what is built.
        datasets: what it reads, by name.
        run: what is done with it.
        imports: modules that register parts from outside this package.
        resolved: the same content as plain containers, as written to the run folder; paths into
            the package stand there as `${package:...}`, so that a moved installation is no change.
    """

    model: ModelConfig
    datasets: dict[str, DatasetEntry]
    run: RunConfig
    imports: tuple[str, ...] = ()
    resolved: dict[str, Any] = field(default_factory=dict)
