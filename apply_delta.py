"""Merge a delta: python apply_delta.py --base LLAMA --target OUT --delta DELTA."""

import sys

from video_llama.apps.main import main

if __name__ == "__main__":
    sys.exit(main(["weights", "merge-delta", *sys.argv[1:]]))
