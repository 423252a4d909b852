"""The device of a model, and its number format."""

from __future__ import annotations

import torch

from sd_perception_ros.config import GPU_RUNTIMES

PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


def find_device(name: str) -> torch.device:
    """
    Return the torch device of this name; 'auto' is CUDA if there is one, otherwise the CPU.

    :raises ValueError: an unknown name, or a device that is not available.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"expected a device such as cpu or cuda:0, got '{name}'") from None
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device '{name}' is not available: torch {torch.__version__} sees "
            f'{torch.cuda.device_count()} CUDA devices; use auto or cpu, or install a torch '
            'built for this machine'
        )
    if device.type not in ('cpu', 'cuda'):
        raise ValueError(f"expected a device such as cpu or cuda:0, got '{name}'")
    return device


def number_format(precision: str, device: torch.device, runtime: str = 'torch') -> torch.dtype:
    """
    Return the number format of the network for an option `precision`.

    'auto' is fp32 on a CPU, where half precision is slow. On CUDA it is bf16, which has the range
    of fp32, or fp16 on GPUs before Ampere, which have no bf16, and in other runtimes than torch.
    """
    if precision != 'auto':
        return PRECISIONS[precision]
    if device.type == 'cpu':
        return torch.float32
    if runtime in GPU_RUNTIMES:
        return torch.float16
    ampere = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if ampere else torch.float16


def keep_full_precision() -> None:
    """Turn off TF32 (10 bits of mantissa) for convolutions on CUDA, in this process."""
    torch.backends.cudnn.allow_tf32 = False  # off by default for matrix products
