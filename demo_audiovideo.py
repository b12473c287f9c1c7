"""Door to `video-llama demo`, under the name and with the flags Video-LLaMA published."""

import sys

from video_llama.apps.main import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
