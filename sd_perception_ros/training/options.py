"""Options of a training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from sd_perception_ros.config import check, option

TINY_ENCODER = 'tiny_encoder'


@dataclass(frozen=True)
class TrainingConfig:
    """Optimizer, learning rate schedule and number format of a training run."""

    steps: int = option(30000, 'Optimizer steps, independent of the number of processes', low=1)
    batch_size: int = option(32, 'Images per optimizer step, over all processes together', low=1)
    gradient_accumulation_steps: int = option(
        1, 'Forward passes per optimizer step and process; more need less memory', low=1
    )
    learning_rate: float = option(3e-5, 'Peak learning rate of AdamW', low=1e-8, high=1)
    warmup_steps: int = option(100, 'Steps of linear warm-up to the peak learning rate', low=1)
    decay: str = option(
        'cosine',
        'Learning rate schedule after the warm-up; both end at 1 % of the peak',
        choices=('cosine', 'exponential'),
    )
    decay_steps: int = option(0, 'Step at which the decay ends; 0: the last step', low=0)
    precision: str = option(
        'fp32',
        'Number format of the forward pass; weights and optimizer stay in fp32',
        choices=('fp32', 'bf16', 'fp16'),
    )
    ema_decay: float = option(
        0.0,
        'Decay of the exponential moving average of the weights, which is saved as the result; '
        '0: save the last weights',
        low=0,
        high=0.99999,
    )
    seed: int = option(0, 'Random seed of data order, augmentation and noise', low=0)
    cuda_graphs: bool = option(
        True, 'On a single GPU, capture the network as CUDA graphs, one per window size'
    )
    save_every: int = option(500, 'Steps between two saved training states', low=1)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training of a small autoencoder and denoiser."""

    vae_steps: int = option(4000, 'Steps of the autoencoder', low=1)
    denoiser_steps: int = option(
        2500, 'Steps of the denoiser; 0: only copy --denoiser-from', low=0
    )
    batch_size: int = option(16, 'Images per step', low=1)
    precision: str = option('fp32', 'Number format of the forward pass', choices=('fp32', 'bf16'))
    seed: int = option(0, 'Random seed', low=0)
    stage: str = option(
        'all',
        'Stop after this stage; tiny_encoder: instead of all others, train a tiny encoder to '
        'imitate the encoder of --base',
        choices=('all', 'vae', 'latents', 'denoiser', TINY_ENCODER),
    )
    tiny_channels: int = option(64, 'Channels of a tiny encoder with random weights', low=1)
    tiny_steps: int = option(20000, 'Steps of the tiny encoder', low=1)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class FinetuneConfig:
    """Which weights of a model are trained."""

    trainable: str = option(
        'full',
        'full: the whole denoiser and the heads; lora: low-rank adapters of the denoiser, merged '
        'into it at the end, and the heads; heads: the heads only',
        choices=('full', 'lora', 'heads'),
    )
    lora_rank: int = option(16, 'Rank of the LoRA adapters', low=1, high=512)
    gradient_checkpointing: bool = option(
        False, 'Recompute activations in the backward pass: less memory, slower'
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class ValidationConfig:
    """How a model in training is measured on the data of --validate."""

    validate_every: int = option(
        500, 'Steps between two validations; the last step is always validated', low=1
    )
    validate_frames: int = option(
        64, 'Frames of a validation, evenly spaced over the data of --validate', low=1
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class WindowConfig:
    """How training windows are cut from images."""

    fit: str = option(
        'crop',
        'crop: cut windows at the scale of the image; cover: first resize the image until it just '
        'covers the window, for data with images of many sizes; zoom: cover at a random scale of '
        'up to twice that, to show objects at many sizes',
        choices=('crop', 'cover', 'zoom'),
    )
    size_order: str = option(
        'sequence',
        'sequence: each of --sizes is used for an equal number of steps, one after the other; '
        'random: each step draws one, and a size that is listed twice is drawn twice as often',
        choices=('sequence', 'random'),
    )
    appearance: str = option(
        'color',
        'Random changes of the images. color: exposure, tint, contrast, blur, noise; camera: also '
        'vignette, low light, motion blur, low resolution and JPEG',
        choices=('color', 'camera'),
    )
    paste: float = option(
        0.0,
        'Fraction of the windows into which people or objects of another frame are pasted; needs '
        'depth, foreground and matte in all data',
        low=0,
        high=1,
    )
    crops: float = option(
        0.0,
        'Fraction of the steps that train human_pose only, on crops of annotated people, rotated, '
        'shifted and scaled at random: for second_look. A checkpoint that reads crops trains on '
        'crops only',
        low=0,
        high=1,
    )
    workers: int = option(
        2,
        'Threads that load images while the network computes; 0: load in the main thread',
        low=0,
        high=64,
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)

    @property
    def cuts_latents(self) -> bool:
        """Whether windows can be cut from the latents of whole images."""
        return self.fit == 'crop' and self.appearance == 'color' and not self.paste
