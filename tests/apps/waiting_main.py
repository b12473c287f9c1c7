"""The command line with the verb of `waiting_verb`, in a fresh interpreter."""

import sys

import waiting_verb  # noqa: F401

from video_llama.apps.main import main

if __name__ == "__main__":
    sys.exit(main())
