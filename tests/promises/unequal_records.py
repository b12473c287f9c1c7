"""What a rank counts that sees no record of skipped samples, where rank 0 has one."""

import json

from video_llama.common.dist import process_group
from video_llama.runners.checkpoint import RunState
from video_llama.runners.skips import counted_anew


def count_anew(folder):
    """Write down what this rank counts of a run that skipped nine samples."""
    state = RunState(step=10, steps_per_epoch=5, global_batch_size=4, num_skipped={"clips": 9})
    with process_group("cpu") as world:
        record = {("clips", 0): ()} if world.rank == 0 else {}
        counted = counted_anew(state, record=record).num_skipped
    (folder / f"rank{world.rank}.json").write_text(json.dumps(counted))
