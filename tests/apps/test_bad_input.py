"""What a user can get wrong is said clearly, all at once, with exit code 2 and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_project import break_clips, write_project

from video_llama.apps.main import VERBS, main
from video_llama.models.decoders.causal_lm import CausalLM

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    return write_project(tmp_path)


@pytest.fixture
def change(project):
    """Edit the run file by dotted keys: `change({"model.max_txt_len": 4})`."""

    def edit(values):
        tree = yaml.safe_load(project.read_text())
        for key, value in values.items():
            node = tree
            *above, last = key.split(".")
            for name in above:
                node = node.setdefault(name, {})
            node[last] = value
        project.write_text(yaml.safe_dump(tree))

    return edit


@pytest.fixture
def refused(project, capsys):
    """Run a verb on the project; return what it said, having refused and written nothing."""

    def run(*options, verb="train", flags=()):
        before = set(project.parent.rglob("*"))
        words = [verb, "--cfg-path", str(project), *flags]
        assert main([*words, "--options", *options] if options else words) == 2
        assert set(project.parent.rglob("*")) == before
        captured = capsys.readouterr()
        return captured.err if not flags else captured.out + captured.err

    return run


@pytest.fixture
def weights_are_sacred(monkeypatch):
    """Fail if anything goes so far as to build a model in real memory."""

    def refuse(self, part):
        assert torch.get_default_device().type == "meta", "the decoder was built in memory"
        build(self, part)

    build = CausalLM.__init__
    monkeypatch.setattr(CausalLM, "__init__", refuse)


def test_the_project_itself_can_be_trained(project):
    assert main(["train", "--cfg-path", str(project)]) == 0


@pytest.mark.parametrize(
    ("option", "texts"),
    [
        ("run.sed=1", ["run.sed: unknown key, did you mean 'seed'?"]),
        ("run.seed=many", ["run.seed: expected an integer, found 'many'"]),
        ("run.amp=1", ["run.amp: expected true or false, found 1"]),
        ("run={amp: true, precision: fp32}", ["run.amp: true contradicts run.precision: fp32"]),
        ("run.precision=half", ["run.precision: expected one of bf16, fp16, fp32, found 'half'"]),
        ("run.precision=fp16", ["run.precision: fp16 needs a CUDA GPU and the device is 'cpu'"]),
        ("model.decoder.dtype=bfloat16", ["model.decoder.trainable: ", "dtype: float32"]),
        ("run.batch_size_train=0", ["run: batch_size_train must be at least 1, found 0"]),
        ("run.task=pretrain", ["run.task: unknown task 'pretrain'", "video_text_pretrain"]),
        ("run.lr_sched=cosine", ["run.lr_sched: unknown lr_scheduler", "linear_warmup_cosine_lr"]),
        ("model.template=vicuna", ["model.template: unknown template", "vicuna_v0"]),
        ("model.model_type=vicuna", ["model.model_type", "(known: billa7b", "vicuna7b"]),
        ("model.arch=video_lama", ["model.arch: unknown arch", "did you mean 'video_llama'?"]),
        ("datasets.clips.type=webvids", ["datasets.clips.type", "did you mean 'webvid'?", "mvb"]),
        ("datasets.clips.sample_rato=1", ["sample_rato", "did you mean 'sample_ratio'?"]),
        ("datasets.clips.sample_ratio=much", ["sample_ratio: expected a number, found 'much'"]),
        ("datasets.clips.sample_ratio=0", ["datasets.clips: sample_ratio must be above 0"]),
        ("datasets=3", ["datasets: expected a mapping of names, found 3"]),
        ("model.branches=[1]", ["model.branches: expected a mapping of names"]),
        ("model.branches.video.stages=3", ["model.branches.video.stages: expected a mapping"]),
        ("model.branches.video.encoder.weight=x", ["did you mean 'weights'?"]),
        ("model.decoder.lora={rnk: 4}", ["model.decoder.lora.rnk", "did you mean 'rank'?"]),
        ("model.paths={a: b}", ["model.paths: unknown key"]),
        ("run=3", ["run: expected a mapping, found 3"]),
        ("model=3", ["model: missing, expected a section with arch and model_type"]),
        ("imports=os", ["imports: expected a list of a string, found 'os'"]),
        ("run.output_dir=${model.nowhere}", ["run.output_dir", "model.nowhere"]),
        ("model.audio_branch_media=sound", ["model.imagebind_media.sound"]),
        ("run.device=cuda:99", ["run.device: 'cuda:99' is not there"]),
    ],
)
def test_a_mistake_is_named_with_its_key_and_a_way_out(option, texts, refused):
    said = refused(option)
    assert said.startswith("error: ")
    for text in texts:
        assert text in said


def test_faults_of_all_sections_are_reported_together(refused):
    said = refused(
        "run.init_lr=fast",
        "run.max_epochs=3",
        "model.branches.audio.stages.audio_qformer.num_querys=3",
        "model.branches.video.encoder.type=eva_vit",
        "datasets.clips.stream=[video]",
        "model.template=vicuna",
        "datsets={}",
    )
    assert "7 problems" in said
    for text in ("'max_epoch'", "'num_queries'", "'eva_vit_g'", "'streams'", "'datasets'"):
        assert f"did you mean {text}?" in said


def test_an_unknown_preset_does_not_hide_the_other_mistakes(refused):
    said = refused("model.model_type=vicuna", "run.sed=1")
    assert "model.model_type" in said
    assert "did you mean 'seed'?" in said


def test_a_run_file_that_does_not_exist_is_answered_with_the_nearest_names(project, capsys):
    assert main(["train", "--cfg-path", str(project.with_name("runs.yaml"))]) == 2
    assert f"nearest: {project}" in capsys.readouterr().err


def test_a_shipped_run_file_is_found_by_a_misspelt_name(capsys):
    assert main(["train", "--cfg-path", "train_configs/visionbranch_stage1_pretrian.yaml"]) == 2
    assert "train_configs/visionbranch_stage1_pretrain.yaml" in capsys.readouterr().err


def test_every_missing_file_of_model_and_data_is_named_at_once(refused, weights_are_sacred):
    said = refused(
        "model.vit_model=ckpt/none.pth",
        "model.branches.video.encoder.weights=${model.vit_model}",
        "model.decoder.weights=ckpt/llama",
        "model.ckpt=output/none",
        "model.tokenizer=ckpt/tokenizer",
        "datasets.clips.annotations=data/none.csv",
        "datasets.clips.media=data/none",
    )
    for text in (
        "model.vit_model: there is no ckpt/none.pth",
        "model.decoder.weights: there is no ckpt/llama",
        "model.ckpt: there is no output/none",
        "model.tokenizer: there is no ckpt/tokenizer",
        "datasets.clips.annotations: there is no data/none.csv",
        "datasets.clips.media: there is no data/none",
    ):
        assert text in said


def test_a_checkpoint_folder_without_a_checkpoint_is_found_before_weights_are_read(
    refused, weights_are_sacred, project
):
    assert "no checkpoint there" in refused(f"model.ckpt={project.parent / 'clips'}")


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_more_slots_than_positions_are_refused_before_weights_are_read(
    flags, refused, weights_are_sacred
):
    said = refused("model.max_txt_len=4", flags=flags)
    assert "model.max_txt_len: 4 positions hold no text beside 4 slots; raise it" in said


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_more_positions_than_context_are_refused_before_weights_are_read(
    flags, refused, weights_are_sacred
):
    said = refused("model.max_txt_len=100", flags=flags)
    assert "model.max_txt_len: 100 is more than the decoder's context of 96" in said


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_a_frozen_part_without_weights_is_refused_before_weights_are_read(
    flags, refused, weights_are_sacred
):
    said = refused("model.branches.video.encoder.trainable=false", flags=flags)
    assert "model.branches.video.encoder: " in said
    assert "neither `weights` nor model.ckpt fills them" in said


def test_parts_that_do_not_fit_together_are_refused_before_weights_are_read(
    refused, weights_are_sacred
):
    said = refused(
        "model.branches.video.stages.projection.width=20",
        "model.branches.audio.stages.audio_qformer.num_positions=1",
    )
    assert "model.branches.video: its last stage is 20 wide, the decoder 16" in said
    assert "model.branches.audio: qformer: 8 time steps come in" in said


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_a_data_set_whose_media_no_branch_takes_is_refused(flags, refused, weights_are_sacred):
    said = refused("model.branches.audio=null", flags=flags)
    assert "datasets.clips: holds audio, but no branch takes it" in said


@pytest.fixture
def frozen_decoder(tmp_path):
    """Options that freeze the decoder; the folder is looked for, and never read."""
    (tmp_path / "llama").mkdir()
    return [f"model.decoder.weights={tmp_path / 'llama'}", "model.decoder.trainable=false"]


def test_a_data_set_of_text_alone_is_refused_before_a_frozen_decoder(
    tmp_path, change, refused, weights_are_sacred, frozen_decoder
):
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    entry = {"type": "messages", "annotations": str(tmp_path / "talk.jsonl"), "media": "."}
    change({"datasets.talk": entry})
    said = refused(*frozen_decoder)
    assert "datasets.talk: its samples hold no media" in said
    assert "datasets.clips" not in said


def test_a_data_set_that_only_frozen_parts_see_is_refused(
    refused, weights_are_sacred, frozen_decoder, tmp_path
):
    (tmp_path / "any.pth").touch()
    stages = "model.branches.video.stages"
    frozen = ("encoder", "stages.video_qformer", "stages.projection")
    said = refused(
        *frozen_decoder,
        "datasets.clips.streams=[video]",
        *(f"model.branches.video.{part}.trainable=false" for part in frozen),
        f"model.branches.video.encoder.weights={tmp_path / 'any.pth'}",
        f"{stages}.video_qformer.weights={tmp_path / 'any.pth'}",
        f"{stages}.projection.weights={tmp_path / 'any.pth'}",
    )
    assert "datasets.clips: its samples hold video, and no part that learns sees them" in said


def test_the_folder_of_another_run_is_refused_with_the_difference(project, capsys):
    words = ["train", "--cfg-path", str(project), "--options"]
    assert main([*words, "run.seed=1"]) == 0
    kept = sorted((project.parent / "out").rglob("*"))
    assert main([*words, "run.seed=2", "model.max_txt_len=65"]) == 2
    said = capsys.readouterr().err
    assert "run.seed: 1 in the run, 2 now" in said
    assert "model.max_txt_len: 64 in the run, 65 now" in said
    assert "take another folder" in said
    assert sorted((project.parent / "out").rglob("*")) == kept


def test_unusable_clips_are_named_and_counted_while_training_goes_on(project):
    break_clips(project.parent / "clips")
    out = project.parent / "out"
    options = ["run.iters_per_epoch=4", "run.max_skip_rate=1"]
    assert main(["train", "--cfg-path", str(project), "--options", *options]) == 0
    lines = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    found = {Path(line["path"]).name: line["reason"] for line in lines}
    assert set(found) == {"0.mp4", "1.mp4", "3.mp4"}
    assert "cut off" in found["0.mp4"]
    assert found["1.mp4"] == "no audio stream"
    assert found["3.mp4"] == "the file is empty (0 bytes)"
    state = json.loads((out / "checkpoints" / "last" / "state.json").read_text())
    assert state["num_skipped"] == {"clips": len(lines)}
    assert state["step"] == 4


def test_too_many_unusable_clips_stop_the_run_by_name(project, capsys):
    for path in (project.parent / "clips" / "page").glob("*.mp4"):
        path.write_bytes(b"no video")
    assert main(["train", "--cfg-path", str(project)]) == 2
    said = capsys.readouterr().err
    assert "datasets.clips: 8 samples in a row cannot be used" in said
    assert "video-llama data check" in said
    assert ".mp4" in said


def test_an_unknown_verb_is_answered_with_the_nearest_one(capsys):
    assert main(["trian"]) == 2
    assert "unknown verb 'trian', did you mean 'train'?" in capsys.readouterr().err


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n  {verb} " in said


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert VERBS[verb].split(" (")[0] in " ".join(capsys.readouterr().out.split())


def test_env_names_packages_and_the_machine(capsys):
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    for name in ("video_llama", "torch", torch.__version__, "python", "gpus"):
        assert name in said


@pytest.mark.parametrize("door", ["train.py", "evaluate.py", "demo_audiovideo.py"])
def test_the_doors_of_the_repository_open(door, run_program):
    done = run_program(ROOT / door, "--help")
    assert done.returncode == 0, done.stderr
    assert "--cfg-path" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("door", ["train", "evaluate", "demo_audiovideo", "apply_delta"])
def test_doors_open_in_an_interpreter_that_has_imported_nothing(door):
    words = [sys.executable, str(ROOT / f"{door}.py"), "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_an_output_folder_that_cannot_be_made_is_refused_before_weights_are_read(
    refused, weights_are_sacred, project
):
    said = refused(f"run.output_dir={project}/out")
    assert f"run.output_dir: {project}/out cannot be written: {project} is a file" in said


@pytest.mark.parametrize(("verb", "flags"), [("train", ("--dry-run",)), ("plan", ("--gpus", "1"))])
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("run.resume_ckpt_path=/nope", "there is no directory /nope"),
        ("run.valid.metric=valid_los", "run.valid.metric: unknown metric 'valid_los'"),
    ],
)
def test_a_plan_names_a_missing_start_and_an_unknown_goal(refused, verb, flags, option, text):
    assert text in refused(option, verb=verb, flags=flags)
