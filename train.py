"""Train a model: python train.py --cfg-path train_configs/....yaml [--options key=value ...]."""

import sys

from video_llama.apps.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
