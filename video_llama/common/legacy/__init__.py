"""Run files of the original Video-LLaMA, translated: see `translate`."""
