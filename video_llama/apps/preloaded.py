"""What verbs need, imported; for the process they are forked from."""

from contextlib import suppress

from sentencepiece import sentencepiece_pb2  # noqa: F401
from transformers.models.auto import modeling_auto  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

from video_llama.apps import data, evaluate, train  # noqa: F401
from video_llama.common.registry import FOLDERS, registry

with suppress(ImportError):  # not everybody has it
    from torch.utils import tensorboard  # noqa: F401

for kind in FOLDERS:
    registry.names(kind)
