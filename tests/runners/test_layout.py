"""How a step was divided, where the ledger does not say."""

from tiny_run import config_of

from video_llama.runners.checkpoint import RunState
from video_llama.runners.replay import Layout, layout_of


def test_a_step_is_divided_as_in_the_run_that_saved_the_checkpoint_before_it(tmp_path):
    state = RunState(
        step=10,
        steps_per_epoch=5,
        global_batch_size=48,
        config={"run": {"accum_grad_iters": 2, "batch_size_train": 6}},
        num_ranks=4,
    )
    # The run went on with 3 ranks, 4 samples each and 4 iterations: 48 samples again.
    now = config_of(tmp_path, batch_size_train=4, accum_grad_iters=4)
    assert layout_of(now, entry=None, state=state) == Layout(4, accum=2, batch_size=6)


def test_what_a_run_file_does_not_name_was_its_default(tmp_path):
    state = RunState(
        step=10, steps_per_epoch=5, global_batch_size=12, config={"run": {}}, num_ranks=2
    )
    now = config_of(tmp_path, batch_size_train=3, accum_grad_iters=4)
    assert layout_of(now, entry=None, state=state) == Layout(2, accum=1, batch_size=6)
