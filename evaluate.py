"""Measure a model: python evaluate.py --cfg-path eval_configs/....yaml [--options k=v ...]."""

import sys

from video_llama.apps.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
