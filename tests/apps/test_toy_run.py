"""The whole toy recipe, rehearsed with a few clips and steps on the shipped foundations."""

import json

import pytest

from video_llama.apps.data_features import compute_features
from video_llama.apps.lanes import run_lanes
from video_llama.apps.main import main
from video_llama.apps.toy_run import (
    AUDIO,
    FRESH_KINDS,
    JOINT,
    MIN_TRAIN_CLIPS,
    OWN_FILES,
    VISION,
    HeldOutClips,
    features_ahead,
    fresh_scene,
    open_recipes,
)
from video_llama.apps.verb_processes import Verbs
from video_llama.common.errors import VideoLlamaError
from video_llama.toy import questions
from video_llama.toy.annotations import ask_to_learn, cross_modal_rows
from video_llama.toy.plan import HELD_OUT_SPLITS, Counts, sample_split
from video_llama.toy.world import write_world

REHEARSAL = ["run.max_epoch=1", "run.iters_per_epoch=3", "run.batch_size_train=4"]


def test_about_the_fresh_clip_every_kind_of_question_can_be_asked():
    assert set(FRESH_KINDS) <= {question.kind for question in questions.ask(fresh_scene())}


def test_too_small_a_world_is_refused_before_anything_is_written(tmp_path, capsys):
    out = tmp_path / "toy"
    assert main(["toy", "run", "--out", str(out), "--clips", str(MIN_TRAIN_CLIPS - 1)]) == 2
    assert "--clips: the recipes need 3, found 2" in capsys.readouterr().err
    assert not out.exists()


def test_the_smallest_world_has_a_question_that_takes_pictures_and_sound():
    clips = sample_split("train", counts=Counts.scaled_to(MIN_TRAIN_CLIPS), seed=0).clips
    asked = [ask_to_learn(clip.scene) for clip in clips]
    assert len(cross_modal_rows(clips, asked)) == 1
    assert cross_modal_rows(clips[:-1], asked[:-1]) == []


def test_a_recipe_that_fails_shows_the_end_of_its_log(tmp_path):
    options = [f"model.toy_dir={tmp_path}"]
    recipes = open_recipes(["audiobranch_stage1_pretrain"], options)
    with pytest.raises(VideoLlamaError, match=r"(?s)exit code 2.*there is no .*world"):
        run_lanes([recipes], verbs=Verbs(warm=False))


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """A folder with a world of four training clips below it."""
    folder = tmp_path_factory.mktemp("toy")
    counts = Counts(4, 2, test=2, composition=2, train_pictures=2, valid_pictures=1, voices=1)
    write_world(folder / "world", counts=counts, num_workers=1)
    return folder


def test_features_of_pictures_and_of_sounds_serve_all_recipes(small_world, tmp_path):
    options = [f"model.toy_dir={small_world}", f"run.feature_cache={tmp_path}"]
    # Computed ahead in one process, found by recipes that decode in a process apart.
    pictures, sounds = open_recipes([VISION[1], AUDIO[1]], [*options, OWN_FILES])
    for ahead in (pictures.config, sounds.config):
        assert ahead.run.decode_timeout_s is None
        assert compute_features(ahead, names=list(ahead.datasets)).num_computed >= 6
    for recipe in open_recipes([VISION[0], AUDIO[0], *JOINT], options):
        assert recipe.config.run.decode_timeout_s is not None
        work = compute_features(recipe.config, names=list(recipe.config.datasets))
        assert (work.num_found, work.num_computed) == (work.num_files, 0)


def test_features_are_not_computed_ahead_where_none_are_kept(tmp_path):
    names = (*AUDIO, *VISION, *JOINT)
    for option, num_jobs in (("run.seed=1", 1), ("run.feature_cache=null", 0)):
        recipes = open_recipes(names, [f"model.toy_dir={tmp_path}", option])
        pictures, sounds = features_ahead(recipes, folder=tmp_path, options=(option,))
        assert (len(pictures), len(sounds)) == (num_jobs, num_jobs)


def test_cross_modal_questions_are_about_clips_that_are_heard_anyway():
    (joint,) = open_recipes(JOINT, [])
    limits = {name: entry.config.max_samples for name, entry in joint.config.datasets.items()}
    clips = sample_split("train", counts=Counts(), seed=0).clips[: limits["webvid_instruct"]]
    rows = cross_modal_rows(clips, [ask_to_learn(clip.scene) for clip in clips])
    assert limits["cross_modal"] == len(rows)


def test_a_finished_run_and_its_own_clips_may_lack_the_composition_clips(tmp_path):
    held_out = HeldOutClips(tmp_path / "world", 12)
    write_world(held_out.world, counts=Counts.scaled_to(12), num_workers=1, later=HELD_OUT_SPLITS)
    assert (held_out.size, held_out.kept()) == (8, 0)
    assert main(held_out.words(num_ranks=1)) == 0
    assert held_out.kept() == held_out.done() == held_out.size
    pages = {path.name for path in (held_out.world / "videos").iterdir()}
    assert pages == {"train_000", "valid_000", "test_000"}


def test_a_folder_of_clips_that_is_being_written_is_not_kept(tmp_path):
    (tmp_path / "world.json").write_text('{"clips": {"test": 180}}')
    held_out = HeldOutClips(tmp_path, 300)
    assert held_out.size == 180
    for page, kept in (("test_001", 100), ("test_000.part", 100), ("test_000", 180)):
        (tmp_path / "videos" / page).mkdir(parents=True)
        assert held_out.kept() == kept


def test_the_world_verb_counts_the_clips_it_was_asked_for(tmp_path, capsys):
    words = ["toy", "world", "--out", str(tmp_path / "w"), "--clips", "4", "--workers", "1"]
    for more, said in (
        (["--later", "composition"], "is ready: 4 training, 4 validation and 8 test clips"),
        ([], "is ready: 4 training, 4 validation, 8 test and 4 composition clips"),
        ([], "was there already: 4 training, 4 validation, 8 test and 4 composition clips"),
    ):
        assert main([*words, *more]) == 0
        assert said in capsys.readouterr().out


@pytest.mark.slow
def test_a_rehearsal_ends_with_answers_and_a_second_one_trains_nothing(tmp_path, capfd):
    words = ["toy", "run", "--out", str(tmp_path / "toy"), "--clips", "12", "--options", *REHEARSAL]
    assert main(words) == 0
    out = capfd.readouterr().out
    assert out.count("truth:") == len(FRESH_KINDS)
    assert (tmp_path / "toy" / "report.html").stat().st_size > 10_000
    metrics = json.loads((tmp_path / "toy" / "eval_withaudio" / "metrics.json").read_text())
    assert set(metrics) == {"test"}
    ahead = json.loads((tmp_path / "toy" / "features" / "training_pictures.json").read_text())
    assert ahead["num_computed"] == ahead["num_files"] >= 12
    pages = {path.name for path in (tmp_path / "toy" / "world" / "videos").iterdir()}
    assert pages == {"train_000", "valid_000", "test_000"}
    logs = [path.read_text() for path in (tmp_path / "toy").rglob("log.txt")]
    assert logs
    assert not any("no better than guessing" in log for log in logs)
    changed = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").rglob("*.safetensors")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in changed} == changed
