"""Train and talk to language models that watch and listen."""

__version__ = "0.1.0"
