"""`video-llama evaluate` on real clips with a tiny model of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from video_llama.apps import evaluate as evaluating
from video_llama.apps.evaluate import asking_settings, evaluate, open_question_sets
from video_llama.apps.evaluate_identity import identity_of
from video_llama.apps.main import main
from video_llama.common.config import load
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.registry import registry
from video_llama.models.fidelity import Fidelity
from video_llama.tasks.predictions import read_predictions
from video_llama.toy import questions
from video_llama.toy.codec import encode_mp4
from video_llama.toy.render import FRAMES_PER_S, render_clip
from video_llama.toy.scenes import sample_scene
from video_llama.toy.sound import synthesize

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "tests" / "goldens" / "conversation" / "llama"
NUM_CLIPS = 3
FRESH = {"weights": None, "trainable": True}


@pytest.fixture(scope="session")
def question_set(tmp_path_factory):
    """Clips of the toy world with all that is asked about them, in MVBench's rows."""
    folder = tmp_path_factory.mktemp("questions")
    rows = []
    for index in range(NUM_CLIPS):
        scene = sample_scene(index, seed=0, split="test")
        clip = encode_mp4(
            render_clip(scene), frames_per_s=FRAMES_PER_S, waveform=synthesize(scene.sound)
        )
        (folder / f"{index}.mp4").write_bytes(clip)
        for question in questions.ask(scene):
            row = {"video": f"{index}.mp4", "question": question.question}
            rows.append({**row, "answer": question.answer, "kind": question.kind})
            if question.kind == "sound":
                options = {"candidates": list(question.candidates[:4]), "kind": "mc_sound"}
                answer = {"answer": question.candidates[index % 4]}
                rows.append({**rows[-1], **options, **answer})
    (folder / "questions.json").write_text(json.dumps(rows))
    (folder / "ceilings.json").write_text(json.dumps({"sound": {"chance": 0.125, "deaf": 0.3}}))
    return folder


@pytest.fixture(scope="session")
def encoder_weights(tmp_path_factory):
    """A frozen encoder's weights: the tiny model's own random ones, under the published names."""
    encoder = registry.get_encoder_class("eva_vit_g")
    sizes = {"image_size": 64, "patch_size": 8, "width": 96, "depth": 3, "num_heads": 4}
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    state = encoder(encoder.Config(**sizes)).state_dict()
    save_file({name.removeprefix("vit."): value for name, value in state.items()}, path)
    return path


@pytest.fixture
def run_file(tmp_path, question_set, encoder_weights):
    """A run file whose model needs no weights but those of one frozen encoder."""
    tree = {
        "model": {
            "arch": "video_llama",
            "model_type": "toy",
            "tokenizer": str(TOKENIZER),
            "decoder": {
                **FRESH,
                "architecture": {
                    "model_type": "llama",
                    "hidden_size": 128,
                    "intermediate_size": 64,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "vocab_size": 1000,
                    "max_position_embeddings": 512,
                },
            },
        },
        "datasets": {
            "held_out": {
                "type": "mvbench",
                "split": "test",
                "annotations": str(question_set / "questions.json"),
                "media": str(question_set),
                "streams": ["video", "audio"],
            }
        },
        "run": {
            "task": "question_answering",
            "output_dir": str(tmp_path / "out"),
            "device": "cpu",
            "batch_size_eval": 8,
            "max_new_tokens": 3,
            "probes": ["no_media", "sound_swapped"],
            "probe_questions": 2,
            "bars": {"sound": 0.9},
        },
    }
    for name, stages in (
        ("video", ("ln_vision", "image_qformer", "video_qformer", "projection")),
        ("audio", ("audio_qformer", "projection")),
    ):
        branches = tree["model"].setdefault("branches", {})
        branches[name] = {
            "encoder": dict(FRESH),
            "stages": {stage: dict(FRESH) for stage in stages},
        }
    branches["video"]["encoder"] = {"weights": str(encoder_weights), "trainable": False}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def metrics_of(folder):
    return json.loads((folder / "out" / "held_out" / "metrics.json").read_text())


def test_metrics_say_that_the_model_is_not_the_published_one(run_file, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "fidelity_of", lambda config: Fidelity("block missing"))
    evaluate(load(run_file, options=["run.probes=[]", "run.max_new_tokens=1"]))
    assert metrics_of(tmp_path)["fidelity"] == "block missing"
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["held_out"]["fidelity"] == "block missing"


def test_an_evaluation_leaves_predictions_and_metrics(run_file, tmp_path, question_set):
    rows = evaluate(load(run_file))["held_out"]
    asked = json.loads((question_set / "questions.json").read_text())
    predictions = read_predictions(tmp_path / "out" / "held_out" / "predictions.jsonl")
    assert sum(p.probe == "none" for p in predictions) == len(asked)
    metrics = metrics_of(tmp_path)
    assert "fidelity" not in metrics
    assert metrics["num_questions"] == len(asked)
    assert set(metrics["kinds"]) == {row["kind"] for row in asked} == {row.kind for row in rows}
    assert metrics["kinds"]["sound"]["at_least"] == 0.9
    assert metrics["kinds"]["sound"]["ceilings"] == {"chance": 0.125, "deaf": 0.3}
    assert metrics["kinds"]["sound"]["probes"]["no_media"]["num"] == 2
    assert metrics["kinds"]["mc_sound"]["form"] == "multiple_choice"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"held_out": metrics}


def test_a_second_call_does_not_even_load_the_model(run_file, tmp_path, monkeypatch):
    evaluate(load(run_file))
    first = metrics_of(tmp_path)

    def refuse(*_args, **_kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("video_llama.apps.evaluate.load_model", refuse)
    evaluate(load(run_file))
    assert metrics_of(tmp_path) == first


def test_another_question_of_the_run_file_is_refused_with_the_difference(run_file):
    evaluate(load(run_file))
    with pytest.raises(ConfigError, match="max_new_tokens: 3 there, 4 now"):
        evaluate(load(run_file, options=["run.max_new_tokens=4"]))


def test_fewer_questions_of_a_file_are_another_evaluation(run_file):
    evaluate(load(run_file, options=["run.probes=[]", "datasets.held_out.max_samples=2"]))
    with pytest.raises(ConfigError, match=r"datasets\.held_out\.max_samples: 2 there, None now"):
        evaluate(load(run_file, options=["run.probes=[]"]))


def test_other_streams_of_the_clips_are_another_evaluation(run_file):
    few = ["run.probes=[]", "datasets.held_out.max_samples=2"]
    evaluate(load(run_file, options=few))
    with pytest.raises(ConfigError, match=r"streams: \['video', 'audio'\] there, \['video'\] now"):
        evaluate(load(run_file, options=[*few, "datasets.held_out.streams=[video]"]))


def identity(run_file, *options):
    config = load(run_file, options=options)
    reader = open_question_sets(config)["held_out"]
    return identity_of(config, reader=reader, settings=asking_settings(config))


def test_another_video_reader_is_another_evaluation(run_file):
    assert identity(run_file) != identity(run_file, "run.video_reader=decord")


def test_where_to_get_a_file_makes_no_other_evaluation(run_file):
    assert identity(run_file) == identity(run_file, "model.where_from.datasets=elsewhere")


def test_another_folder_of_media_is_another_evaluation(run_file, tmp_path):
    assert identity(run_file) != identity(run_file, f"datasets.held_out.media={tmp_path}")


def test_where_the_questions_lie_does_not_matter(run_file, tmp_path, question_set):
    shutil.copy(question_set / "questions.json", tmp_path / "moved.json")
    moved = f"datasets.held_out.annotations={tmp_path / 'moved.json'}"
    assert identity(run_file, moved) == identity(run_file)


def test_where_the_answers_of_two_files_lie_does_not_matter(run_file, tmp_path, question_set):
    (tmp_path / "q.json").write_text('[{"video_name": "0", "question": "?", "question_id": 1}]')
    rows = '[{"answer": "red", "question_id": 1}]'
    keys = {"type": "video_qa", "annotations": tmp_path / "q.json", "media": question_set}
    two_files = [f"datasets.held_out.{key}={value}" for key, value in keys.items()]
    identities = []
    for name in ("a.json", "moved.json"):
        (tmp_path / name).write_text(rows)
        answers = f"datasets.held_out.answers={tmp_path / name}"
        identities.append(identity(run_file, *two_files, answers))
    assert identities[0] == identities[1]


def test_cached_features_give_the_same_predictions(run_file, tmp_path):
    evaluate(load(run_file))
    expected = (tmp_path / "out" / "held_out" / "predictions.jsonl").read_text()
    cached = [f"run.feature_cache={tmp_path / 'cache'}"]
    for name in ("cold", "warm"):
        evaluate(load(run_file, options=[*cached, f"run.output_dir={tmp_path / name}"]))
        assert (tmp_path / name / "held_out" / "predictions.jsonl").read_text() == expected
    assert list((tmp_path / "cache").glob("*.bin"))


def test_too_many_broken_clips_stop_the_evaluation(run_file, tmp_path, question_set):
    rows = json.loads((question_set / "questions.json").read_text())
    for row in rows[: len(rows) // 2]:
        row["video"] = "gone.mp4"
    (tmp_path / "half.json").write_text(json.dumps(rows))
    option = f"datasets.held_out.annotations={tmp_path / 'half.json'}"
    with pytest.raises(MediaError, match=r"run\.max_skip_rate allows 0\.05.*gone\.mp4"):
        evaluate(load(run_file, options=[option]))
    assert metrics_of(tmp_path)["num_unusable"] == len(rows) // 2


def test_mistakes_end_with_exit_code_2_and_nothing_is_written(run_file, tmp_path, capsys):
    options = ["run.probes=[no_medai]", "run.task=question_answering"]
    assert main(["evaluate", "--cfg-path", str(run_file), "--options", *options]) == 2
    assert "did you mean 'no_media'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_clips_that_are_not_there_are_named_with_what_makes_them(run_file, tmp_path, capsys):
    elsewhere = f"datasets.held_out.media={tmp_path}"
    assert main(["evaluate", "--cfg-path", str(run_file), "--options", elsewhere]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "held_out.media" in line)
    assert "can be read: there is no " in line
    assert "; where to get it: made by `video-llama toy world" in line


def test_a_training_task_is_refused(run_file):
    with pytest.raises(ConfigError, match="run.task: question_answering"):
        evaluate(load(run_file, options=["run.task=video_text_pretrain"]))


def test_questions_packed_into_shards_are_refused_with_the_way_out(run_file):
    packed = ["datasets.packed.type=shards", "datasets.packed.shards=nowhere"]
    with pytest.raises(ConfigError, match="datasets.packed: .* ask the set it was packed from"):
        evaluate(load(run_file, options=packed))


def test_other_weights_under_the_same_name_are_another_evaluation(
    run_file, tmp_path, encoder_weights
):
    weights = tmp_path / "vit.safetensors"
    weights.write_bytes(encoder_weights.read_bytes())
    options = [f"model.branches.video.encoder.weights={weights}"]
    evaluate(load(run_file, options=options))
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match="foundations"):
        evaluate(load(run_file, options=options))
