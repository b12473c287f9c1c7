"""A run of two ranks that is slow wherever it may be, and then hangs: hanging_run.py OUT.

After epoch 1 it validates, and saves, for longer than the time limit. In epoch 2, rank 1 waits for
ever for the data of step 7.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "runners"))

from tiny_run import build, config_of

from video_llama.common.dist import process_group
from video_llama.common.logger import start_logging

LIMIT_S = 4.0
SLOW_S = 1.4 * LIMIT_S
HANGING_STEP = 7


def read_for_ever():
    while True:
        time.sleep(60)


def main(out):
    start_logging()
    keys = {"collective_timeout_s": LIMIT_S, "async_save": False, "max_epoch": 3}
    with process_group("cpu") as world:
        runner = build(config_of(out, **keys), world)
        data, folder = runner.data, runner.folder
        train_batches, valid_batches, save = data.train_batches, data.valid_batches, folder.save

        def hanging(start_step):
            for index, loaded in enumerate(train_batches(start_step)):
                if world.rank == 1 and index == HANGING_STEP - 1:
                    read_for_ever()
                yield loaded

        def slowly():
            batches = list(valid_batches())
            for loaded in batches:
                time.sleep(SLOW_S / len(batches))
                yield loaded

        def slow_save(**keywords):
            time.sleep(SLOW_S if world.rank == 0 else 0)
            save(**keywords)

        data.train_batches, data.valid_batches, folder.save = hanging, slowly, slow_save
        runner.train()


if __name__ == "__main__":
    main(sys.argv[1])
