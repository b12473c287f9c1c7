"""`video-llama plan --chat`: memory of a conversation by hand, bars at full size, the page."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging

import pytest
from pages import ROOT, commands

from video_llama.apps import chat_memory, loading
from video_llama.apps.chat_memory import log_measured, log_plan
from video_llama.apps.main import main
from video_llama.apps.plan_chat import ChatPlan, ChatPlanner
from video_llama.apps.plan_chat_view import preset_rows
from video_llama.apps.plan_memory import GIB, Line
from video_llama.common.config import load
from video_llama.models.loading import build_model
from video_llama.models.weight_sizes import held_bytes

TOY = "eval_configs/toy/shipped.yaml"
PAGE = ROOT / "docs" / "chat_memory.md"
# GiB in all, by preset and bits.
BARS = {"vicuna7b": {"none": 18, "4bit": 9}, "llama2_13b": {"4bit": 13}}


@pytest.fixture(scope="module")
def toy():
    return ChatPlanner(load(TOY).model)


def test_a_conversation_is_planned_to_the_end_of_the_context(toy):
    llama = json.loads((ROOT / "video_llama/foundations/toy/llama/config.json").read_text())
    plan = toy.plan()
    assert plan.positions == llama["max_position_embeddings"]
    # Keys and values of every layer and position, in float32.
    per_position = 2 * llama["num_hidden_layers"] * llama["hidden_size"] * 4
    assert plan.cache_bytes == plan.positions * per_position


def test_fewer_positions_may_be_planned_and_no_more_than_there_are():
    config = load(TOY).model
    few, many = (ChatPlanner(config, positions=n).plan() for n in (100, 10**6))
    assert (few.positions, few.cache_bytes) == (100, many.cache_bytes * 100 // many.positions)
    assert many.positions == 512


@pytest.mark.parametrize("bits", ["none", "8bit", "4bit"])
def test_planned_weights_are_those_of_the_loaded_model(toy, bits):
    if bits != "none":
        pytest.importorskip("bitsandbytes")
    config = dataclasses.replace(load(TOY).model, low_resource=bits)
    assert toy.plan(low_resource=bits).weight_bytes == held_bytes(build_model(config).model)


def test_a_gpu_holds_more_than_a_host_by_what_cuda_takes(toy):
    gpu, host = toy.plan(on_gpu=True), toy.plan(on_gpu=False)
    assert gpu.total_bytes - host.total_bytes == GIB


def test_what_is_computed_covers_what_reading_a_prompt_keeps_alive(toy):
    # At the least the two inner activations of one MLP, 352 wide, and the hidden states.
    plan = toy.plan()
    other = plan.total_bytes - plan.weight_bytes
    assert other > GIB + plan.cache_bytes + 512 * (2 * 352 + 128) * 4


def test_layers_in_fewer_bits_are_written_out_or_summed_up_somewhere(toy):
    scratch = {
        bits: {line.name: line.size for line in toy.plan(low_resource=bits).working}.get(
            "kernels for fewer bits"
        )
        for bits in ("none", "8bit", "4bit")
    }
    # The MLP's are the largest: 128 x 352 weights in float32, or int32 sums of 512 positions.
    assert scratch == {"none": None, "8bit": 512 * 352 * 4, "4bit": 128 * 352 * 4}


def plan_of(**sizes):
    return ChatPlan(
        positions=10,
        weights=(Line("weights", sizes.get("weights", 5)),),
        cache_bytes=sizes.get("cache", 2),
        working=(Line("computing", sizes.get("computing", 3)),),
    )


def test_the_lines_add_up():
    plan = plan_of()
    assert (plan.weight_bytes, plan.total_bytes) == (5, 10)


@pytest.mark.parametrize(("free", "kept"), [(0, 1), (5, 1), (7, 2), (9, 3), (100, 4)])
def test_key_values_are_kept_for_as_many_conversations_as_fit(free, kept):
    assert plan_of().num_caches(free, most=4) == kept


def test_the_flag_for_bits_makes_the_plan_smaller(capsys):
    said = []
    for flags in ([], ["--load-4bit"]):
        assert main(["plan", "--chat", "--cfg-path", TOY, "--gpu", "l4", *flags]) == 0
        said.append(capsys.readouterr().out)
    assert "nf4 with scales" not in said[0]
    assert "nf4 with scales" in said[1]
    assert "fits, with key-values of" in said[1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--chat", "--gpus", "2"], "a conversation is planned for one GPU"),
        (["--presets", "toy"], "--presets: goes with --chat"),
        (["--chat", "--length", "0"], "--length: expected at least 1 position"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, said, capsys):
    assert main(["plan", "--cfg-path", TOY, *flags]) == 2
    assert said in capsys.readouterr().err


# --- in the log


def test_a_small_model_is_not_worth_a_plan(caplog):
    with caplog.at_level(logging.INFO):
        assert log_plan(load(TOY).model, device="cpu") is None
    assert not caplog.messages


def test_the_plan_is_logged_before_and_what_it_took_after(caplog, monkeypatch):
    monkeypatch.setattr(chat_memory, "SMALL_BYTES", 0)
    config = load(TOY).model
    with caplog.at_level(logging.INFO):
        plan = log_plan(config, device="cpu")
        model = build_model(config).model
        log_measured(model, device="cpu")
    planned, measured = caplog.messages
    assert planned == f"planned memory on cpu: {plan}"
    assert "CUDA" not in planned
    assert measured.startswith(f"measured memory: weights {plan.weight_bytes / GIB:.2f} GiB, peak ")


def test_the_plan_and_what_it_took_are_shown_by_the_logging_of_python(monkeypatch, caplog):
    monkeypatch.setattr(chat_memory, "SMALL_BYTES", 0)
    # What basicConfig sets: the root's level, and nothing of the package's own.
    with caplog.at_level(logging.INFO):
        loading.load_chat(TOY, device="cpu")
    said = [message.split(":")[0] for message in caplog.messages]
    assert (said[0], said[-1]) == ("planned memory on cpu", "measured memory")


# --- full size


class TwoGpus:
    """Stands in for torch.cuda with two GPUs of 24 GiB, the second with other work."""

    def __init__(self):
        self.is_ready = False
        self.forgotten = []

    def init(self):
        self.is_ready = True

    def device_count(self):
        return 2

    def reset_peak_memory_stats(self, gpu):
        assert self.is_ready, "Invalid device argument: did you call init?"
        self.forgotten.append(gpu)

    def max_memory_allocated(self, gpu):
        return (15 - 10 * gpu) * GIB

    def mem_get_info(self, device):
        gpu = int(str(device).rpartition(":")[2] or 0) if isinstance(device, str) else device
        return (23 - 8 * gpu) * GIB, 24 * GIB


@pytest.fixture
def gpus(monkeypatch):
    gpus = TwoGpus()
    for module in (chat_memory, loading):
        monkeypatch.setattr(module, "accelerator", lambda kind: gpus)
    return gpus


def test_peaks_are_those_of_every_gpu_since_before_loading(gpus, caplog):
    log_plan(load(TOY).model, device="cuda")
    assert gpus.forgotten == [0, 1]
    with caplog.at_level(logging.INFO):
        log_measured(build_model(load(TOY).model).model, device="cuda")
    assert caplog.messages[0].endswith("peak 15.00 GiB on cuda:0, 5.00 GiB on cuda:1")


def test_a_decoder_is_spread_over_what_is_free_beside_branches_and_computing(gpus):
    config = load(TOY, options=["run.device_map=auto"])
    branches = held_bytes(build_model(config.model).model.branches)
    placement = loading.place(config, device="cuda")
    # Of 23 and 15 free GiB one each is for CUDA and two are for key-values and computing.
    assert placement.max_memory == {0: 20 * GIB - branches, 1: 12 * GIB}


def test_conversations_keep_key_values_as_the_gpu_has_room(gpus, monkeypatch):
    plan = plan_of(computing=2 * GIB, cache=9 * GIB)
    kept = []
    monkeypatch.setattr(loading, "Shared", lambda num_caches=None: kept.append(num_caches))
    # 23 GiB are free: 0.5 for tokens of media, 2 for computing, and so two times 9.
    loading._shared(plan, device="cuda:0")
    loading._shared(plan, device="cuda:1")
    loading._shared(plan, device="cpu")
    loading._shared(None, device="cuda:0")
    assert kept == [2, 1, None, None]


def tables():
    """The tables of the page, by the run file of the command above each."""
    found = {}
    for words in commands(PAGE):
        if "--presets" in words:
            assert words[:3] == ["video-llama", "plan", "--chat"]
            found[words[words.index("--cfg-path") + 1]] = words
    lines = PAGE.read_text("utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("| preset |")]
    assert len(starts) == len(found)
    for start, (path, words) in zip(starts, found.items(), strict=True):
        rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
        yield Planned(path, words, list(rows))


@dataclasses.dataclass
class Planned:
    """A table of the page."""

    path: str
    command: list[str]
    lines: list[str]

    @property
    def presets(self):
        return self.command[self.command.index("--presets") + 1 :]

    @property
    def length(self):
        return int(self.command[self.command.index("--length") + 1])


TABLES = {table.path: table for table in tables()}


@pytest.mark.parametrize("preset", BARS)
def test_the_bars_hold(preset):
    """Planned here and now, like the page's table."""
    run_file = "eval_configs/video_llama_eval_withaudio.yaml"
    config = load(run_file, options=[f"model.model_type={preset}"])
    planner = ChatPlanner(config.model, positions=TABLES[run_file].length)
    found = {bits: planner.plan(low_resource=bits).total_bytes / GIB for bits in BARS[preset]}
    assert {bits: size for bits, size in found.items() if size > BARS[preset][bits]} == {}


def test_the_lengths_of_the_page_are_those_its_text_names():
    text = PAGE.read_text("utf-8")
    assert [table.length for table in TABLES.values()] == [2000, 4096]
    assert "and 2,000 positions of the decoder" in text
    config = load("eval_configs/video_llava_eval.yaml").model
    assert config.decoder.config.architecture["max_position_embeddings"] == 4096


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_every_preset_has_its_three_rows(table):
    names = [line.split("|")[1].strip() for line in table.lines[2:]]
    assert names == [preset for preset in table.presets for _ in range(3)]


# One of each size and of each vocabulary.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "preset"),
    [
        *(
            ("eval_configs/video_llama_eval_withaudio.yaml", preset)
            for preset in ("vicuna7b", "llama2_13b", "billa7b", "ziya13b")
        ),
        ("eval_configs/video_llava_eval.yaml", "vicuna7b"),
    ],
)
def test_the_page_repeats_what_its_command_prints(path, preset):
    table = TABLES[path]
    head, rule, *rows = preset_rows(path, [preset], length=table.length)
    assert table.lines[:2] == [head, rule]
    assert "\n".join(rows) in "\n".join(table.lines)


def test_the_weights_of_video_llava_are_those_of_its_published_sizes():
    plan = ChatPlanner(load("eval_configs/video_llava_eval.yaml").model, positions=100).plan()
    # Decoder and towers in bfloat16, norms and the projector in float32: millions of weights. The
    # last layer of each tower is not there (12.6, and 4.2 across time).
    decoder, towers, projector = 6738.4, 303.2 + 404.2 - 2 * 12.6 - 4.2, 20.98
    assert plan.weight_bytes / 1e6 == pytest.approx(
        2 * (decoder + towers) + 4 * projector, rel=2e-4
    )
    # Keys and values of 32 layers, 4096 wide, two bytes each.
    assert plan.cache_bytes == 100 * 2 * 32 * 4096 * 2
