"""Asking, probing, going on after a kill."""

from __future__ import annotations

import pytest
from seeing import SeeingModel, a_prompter, a_question

from video_llama.common.errors import ConfigError
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.tasks.predictions import NO_PROBE, PredictionStore
from video_llama.tasks.question_answering import QuestionAnswering

OPTIONS = ["a rather long wrong option", "red", "blue", "green"]


def ask(tmp_path, questions, *, model=None, prompter=None, **settings):
    """Evaluate and return correctness by (probe, key)."""
    prompter = prompter or a_prompter()
    model = model or SeeingModel(prompter.encoder.text.tokenizer)
    config = QuestionAnswering.Config(batch_size=3, **settings)
    store = PredictionStore(tmp_path / "predictions", identity={})
    return QuestionAnswering(config, prompter=prompter).evaluate(model, questions, store=store)


def right(predictions, probe=NO_PROBE):
    return {p.key: p.correct for p in predictions if p.probe == probe}


@pytest.fixture
def clips():
    return [a_question(f"q{i}", f"{'dark' if i % 2 else 'bright'} {i}") for i in range(8)]


def test_what_the_model_sees_is_what_is_scored(tmp_path, clips):
    predictions = ask(tmp_path, clips)
    assert right(predictions) == {f"q{i}": True for i in range(8)}
    assert {p.prediction for p in predictions} == {"red", "blue"}


def test_without_media_only_the_words_are_left(tmp_path, clips):
    predictions = ask(tmp_path, clips, probes=("no_media",))
    answers = [p.prediction for p in predictions if p.probe == "no_media"]
    assert answers == ["nothing"] * 8


def test_shuffled_frames_change_what_comes_first(tmp_path, clips):
    predictions = ask(tmp_path, clips, probes=("frames_shuffled",))
    # One frame of four differs from the rest, so most shuffles put another one first.
    assert sum(not correct for correct in right(predictions, "frames_shuffled").values()) >= 4


def test_frames_are_shuffled_also_where_few_of_a_chunks_clips_are_probed(tmp_path, clips):
    predictions = ask(tmp_path, clips, probes=("frames_shuffled",), probe_questions=2)
    assert len(right(predictions, "frames_shuffled")) == 2


def test_with_another_clip_the_answer_is_that_clips(tmp_path):
    pair = [a_question("q0", "dark"), a_question("q1", "bright")]
    predictions = ask(tmp_path, pair, probes=("clip_swapped",))
    swapped = {p.key: p.prediction for p in predictions if p.probe == "clip_swapped"}
    assert swapped == {"q0": "blue", "q1": "red"}


def test_a_question_is_not_asked_under_a_probe_that_does_not_concern_it(tmp_path, clips):
    heard = a_question("heard", "dark too", streams=("video", "audio"))
    predictions = ask(tmp_path, [*clips, heard], probes=("sound_muted",))
    assert set(right(predictions, "sound_muted")) == {"heard"}


def test_muted_sound_leaves_what_is_seen(tmp_path):
    heard = [a_question(f"q{i}", f"dark {i}", streams=("video", "audio")) for i in range(3)]
    predictions = ask(tmp_path, heard, probes=("sound_muted", "sound_swapped"))
    assert all(p.correct for p in predictions)
    assert len(predictions) == 9


def test_the_likeliest_option_is_chosen_by_the_mean_and_not_by_the_sum(tmp_path):
    question = a_question("q", "bright", candidates=OPTIONS)
    (prediction,) = ask(tmp_path, [question])
    assert (prediction.form, prediction.prediction) == ("multiple_choice", "blue")
    # Mean loss .5 for what the model would say, 2 for the rest.
    assert prediction.scores == pytest.approx((-2.0, -2.0, -0.5, -2.0))


def test_a_clip_is_read_and_encoded_once_for_all_its_questions(tmp_path):
    prompter = a_prompter()
    model = SeeingModel(prompter.encoder.text.tokenizer)
    questions = [a_question(f"q{i}", "dark") for i in range(5)]
    questions.append(a_question("mc", "dark", candidates=OPTIONS))
    ask(tmp_path, questions, model=model, prompter=prompter)
    assert prompter.encoder.reader.num_read == 1
    assert model.num_encoded == 1


def test_silence_is_encoded_once_for_all_clips(tmp_path):
    prompter = a_prompter()
    model = SeeingModel(prompter.encoder.text.tokenizer)
    heard = [a_question(f"q{i}", f"dark {i}", streams=("video", "audio")) for i in range(3)]
    ask(tmp_path, heard, model=model, prompter=prompter, probes=("sound_muted",))
    # Three pictures, three sounds and silence.
    assert model.num_encoded == 7


def test_open_questions_are_asked_in_batches(tmp_path, clips):
    prompter = a_prompter()
    model = SeeingModel(prompter.encoder.text.tokenizer)
    ask(tmp_path, clips, model=model, prompter=prompter)
    assert model.batch_sizes == [3, 3, 2]


def test_a_probe_may_be_limited_to_the_first_questions_of_each_kind(tmp_path, clips):
    predictions = ask(tmp_path, clips, probes=("no_media",), probe_questions=3)
    assert set(right(predictions, "no_media")) == {"q0", "q1", "q2"}
    assert len(right(predictions)) == 8


def test_a_broken_clip_is_named_and_the_rest_is_asked(tmp_path, clips):
    predictions = ask(tmp_path, [*clips, a_question("bad", "broken")], probes=("no_media",))
    bad = [p for p in predictions if p.key == "bad"]
    assert [p.error for p in bad] == ["/clips/broken.mp4: no video stream"]
    assert sum(right(predictions).values()) == 8


def test_an_evaluation_goes_on_where_it_was_killed(tmp_path, clips):
    class Killed(Exception):
        pass

    class Mortal(SeeingModel):
        def generate(self, batch, *, settings, stop=None):
            if len(self.batch_sizes) == 3:
                raise Killed
            return super().generate(batch, settings=settings, stop=stop)

    prompter = a_prompter()
    mortal = Mortal(prompter.encoder.text.tokenizer)
    with pytest.raises(Killed):
        ask(tmp_path, clips, model=mortal, prompter=prompter, clips_per_chunk=2)
    model = SeeingModel(prompter.encoder.text.tokenizer)
    resumed = ask(tmp_path, clips, model=model, prompter=prompter, clips_per_chunk=2)
    assert len(model.batch_sizes) == 1
    assert resumed == ask(tmp_path / "fresh", clips, clips_per_chunk=2)


def test_a_finished_evaluation_asks_nothing(tmp_path, clips):
    ask(tmp_path, clips)
    prompter = a_prompter()
    model = SeeingModel(prompter.encoder.text.tokenizer)
    again = ask(tmp_path, clips, model=model, prompter=prompter)
    assert len(again) == 8
    assert model.batch_sizes == []


@pytest.mark.parametrize(
    ("probe", "num_altered", "num_read"),
    # Pictures, but not their sounds; nothing; silence, which needs no file.
    [("frames_shuffled", 6, 6), ("clip_swapped", 0, 0), ("sound_muted", 1, 0)],
)
def test_probes_give_the_same_with_cached_features(tmp_path, probe, num_altered, num_read):
    files = tmp_path / "clips"
    files.mkdir()
    questions = []
    for i in range(6):
        name = f"{'dark' if i % 2 else 'bright'} {i}"
        question = a_question(f"q{i}", name, streams=("video", "audio"))
        for item in question.sample.media:
            item.path = str(files / f"{name}.mp4")
        (files / f"{name}.mp4").write_text(name)
        questions.append(question)

    readers = []

    def run(folder, directory):
        cache = FeatureCache(directory) if directory else None
        prompter = a_prompter(cache)
        readers.append(prompter.encoder.reader)
        model = SeeingModel(prompter.encoder.text.tokenizer)
        return model, ask(
            tmp_path / folder, questions, model=model, prompter=prompter, probes=(probe,)
        )

    _, uncached = run("uncached", None)
    first, cold = run("cold", tmp_path / "cache")
    second, warm = run("warm", tmp_path / "cache")
    assert uncached == cold == warm
    assert (first.num_encoded, second.num_encoded) == (12 + num_altered, num_altered)
    assert readers[-1].num_read == num_read


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="clips_per_chunk must be at least 2"):
        QuestionAnswering.Config(clips_per_chunk=1)
    with pytest.raises(ConfigError, match="unknown probe"):
        QuestionAnswering(QuestionAnswering.Config(probes=("mute",)), prompter=a_prompter())
