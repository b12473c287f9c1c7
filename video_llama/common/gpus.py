"""What GPUs hold and how fast they multiply at best; the only such table.

Memory is the total that `nvidia-smi` prints. Peaks are dense matrix products with float32 sums, in
TFLOP/s, from NVIDIA's data sheets and architecture white papers (figures with sparsity halved);
float32 is without TF32, torch's default. None of it was measured here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from video_llama.common.errors import UnknownName
from video_llama.common.registry import did_you_mean


@dataclass(frozen=True)
class Gpu:
    """One model of GPU.

    Attributes:
        name: as on the command line.
        memory_mib: total memory.
        half_tflops: peak of float16, and of bfloat16 where there is any.
        single_tflops: peak of float32.
        pattern: regular expression for the whole words the driver's name for it ends in.
        has_bfloat16: whether it computes in bfloat16.
    """

    name: str
    memory_mib: int
    half_tflops: float
    single_tflops: float
    pattern: str
    has_bfloat16: bool = True

    def peak_tflops(self, dtype: str) -> float:
        """Return the peak in a dtype (float32, bfloat16, float16)."""
        return self.single_tflops if dtype == "float32" else self.half_tflops


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40gb", 40_960, 312, 19.5, r"A100.*40GB"),
        Gpu("a100-80gb", 81_920, 312, 19.5, r"A100.*80GB"),
        Gpu("h100", 81_559, 989.4, 66.9, r"H100 80GB HBM3"),
        Gpu("h100-pcie", 81_559, 756, 51.2, r"H100 PCIe"),
        Gpu("h200", 143_771, 989.4, 66.9, r"H200"),
        Gpu("l40s", 46_068, 362, 91.6, r"L40S"),
        Gpu("l4", 23_034, 121, 30.3, r"L4"),
        Gpu("a10g", 23_028, 70, 35, r"A10G"),
        Gpu("a6000", 49_140, 154.8, 38.7, r"RTX A6000"),
        Gpu("rtx3090", 24_576, 71, 35.6, r"RTX 3090"),
        Gpu("rtx4090", 24_564, 165.2, 82.6, r"RTX 4090"),
        Gpu("v100-16gb", 16_384, 125, 15.7, r"V100.*16GB", has_bfloat16=False),
        Gpu("v100-32gb", 32_768, 125, 15.7, r"V100.*32GB", has_bfloat16=False),
        Gpu("t4", 15_360, 65, 8.1, r"T4", has_bfloat16=False),
    )
}


def gpu_named(name: str) -> Gpu:
    """Return a GPU of the table.

    Raises:
        UnknownName: it is not there.
    """
    if name not in GPUS:
        raise UnknownName(
            f"no GPU is called '{name}'{did_you_mean(name, GPUS)} (known: {', '.join(GPUS)})"
        )
    return GPUS[name]


def recognise(device_name: str) -> Gpu | None:
    """Return the GPU a driver's name stands for, None if it is not in the table.

    Args:
        device_name: e.g. "NVIDIA A100-SXM4-80GB", from `torch.cuda.get_device_name`.
    """
    return next(
        (gpu for gpu in GPUS.values() if re.search(rf"\b(?:{gpu.pattern})$", device_name)), None
    )
