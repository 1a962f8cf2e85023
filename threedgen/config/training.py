"""How networks are trained."""

from dataclasses import dataclass
from enum import Enum

from threedgen.config.setting import setting


class PriorNetwork(Enum):
    """What a prior in training is."""

    multiview = "multiview"  # MVDream: the views of an object see each other in every self-attention
    video = "video"  # VideoMV: they are frames of a video, in their order


class ViewAttention(Enum):
    """How the self-attention of a multi-view network sees the other views of an object."""

    inflated = "inflated"  # MVDream: over the tokens of all views
    temporal = "temporal"  # as video networks do: within a view, then, in new layers, over the views at each pixel
    none = "none"  # within a view only
    epipolar = "epipolar"  # as inflated, then, in new layers, at points along each pixel's ray
    spad = "spad"  # as inflated, but along epipolar lines only; each block is told the pixels' rays


class CameraInput(Enum):
    """Where a multi-view network takes its camera in."""

    timestep = "timestep"  # MVDream: added to the timestep's embedding
    text = "text"  # one more token for the cross-attention, after those of the text


class Trainable(Enum):
    """Which of a network's tensors training changes."""

    all = "all"
    picture = "picture"  # what meets the picture: its own layers, and those that hear of it in each frame


class TrainOptimizer(Enum):
    adamw = "adamw"
    muon = "muon"  # for matrices; AdamW for all else


class TrainBackground(Enum):
    """What stands behind objects in training; the views of a set share it."""

    random_grey = "random_grey"  # MVDream: any level
    grey_or_color = "grey_or_color"  # half mid grey, half any one colour
    mid_grey = "mid_grey"  # VideoMV


class Precision(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"  # autocast: weights, their average and the optimiser stay in float32


@dataclass
class TrainConfig:
    """Training of a multi-view prior on views of captioned objects and on single pictures."""

    start_from: str = ""  # weights to start from, as `weights`, or 2D Stable Diffusion; "": mini from scratch, VAE too
    network: PriorNetwork = PriorNetwork.multiview
    image_conditioning: bool = False  # a video network is shown a picture too, the first of its views
    image_drop_probability: float = setting(0.1, 0, 1)  # chance that what it shows is kept back, and the text with it
    image_encoder_steps: int = setting(3000, 0)  # of a new image encoder, before the network's own steps
    trainable: Trainable = Trainable.all
    view_attention: ViewAttention = ViewAttention.inflated  # of a multi-view network, as the next
    camera_input: CameraInput = CameraInput.timestep
    layers_per_block: tuple[int, ...] = setting((), 1, 64)  # of a multi-view network, finest level first; (): as is
    train_text_encoder: bool = True
    multiview_data: str = "miniworld"  # miniworld-clips, a folder or shards, see docs/howto/training-data.md
    image_data: str = "miniworld"  # single pictures, the same; "": none, every step is multi-view
    image_size: int = setting(0, 0, 8192)  # pixels; 0: those of the weights
    multiview_probability: float = setting(0.7, 0, 1)  # chance of a step with objects from all sides
    text_drop_probability: float = setting(0.1, 0, 1)
    asset_suffix_probability: float = setting(0.5, 0, 1)  # chance that ", 3d asset" is added to an object's caption
    background: TrainBackground = TrainBackground.grey_or_color
    batch_objects: int = setting(8, 1)  # of a step, over all processes and accumulated parts
    accumulate: int = setting(1, 1, incidental=True)  # parts that a process computes one after another, to save memory
    precision: Precision = Precision.float32
    gradient_checkpointing: bool = setting(False, incidental=True)  # saves memory, takes about a third longer
    steps: int = setting(7000, 0)
    minutes: float = setting(0.0, 0)  # of the clock after which it ends at the latest; 0: only steps count
    optimizer: TrainOptimizer = TrainOptimizer.adamw
    lr: float = setting(1e-3, 0)
    warmup_steps: int = setting(100, 0)
    decay_fraction: float = setting(0.6, 0, 1)  # the last part, in which the rate falls linearly to 1 %
    betas: tuple[float, float] = setting((0.9, 0.99), 0, 0.999999999)
    weight_decay: float = setting(1e-3, 0)
    ema_decay: float = setting(0.999, 0, 1)
    vae: str = ""  # weights whose VAE is taken; "": that of start_from, or one is trained
    train_vae_decoder: bool = False  # and its decoder goes on learning first, which leaves latents what they are
    vae_steps: int = setting(8000, 1)
    vae_minutes: float = setting(0.0, 0)  # as minutes, of the VAE's training
    vae_lr: float = setting(2e-3, 0)
    vae_batch: int = setting(16, 1)
    render_workers: int = setting(2, 1, 1024, incidental=True)  # processes that draw miniworld's pictures
    # threads that draw the next batch meanwhile; 0: none, right for miniworld on a CPU
    loader_workers: int = setting(0, 0, 1024, incidental=True)
    kinds: tuple[str, ...] = ()  # of miniworld's things only these, such as [cat, duck]; empty: all
    num_objects: int = setting(12000, 1)
    num_patterned_images: int = setting(12000, 1)
    pattern_scale: float = setting(1.0, 0.1, 10)  # of miniworld's patterns: 2: twice as coarse
    patterned_object_share: float = setting(0.0, 0, 1)  # of miniworld's objects with views those that have a pattern
    patterned_share: float = setting(0.5, 0, 1)  # of miniworld's single pictures that show a pattern
    checkpoint_every: int = setting(500, 1, incidental=True)
    log_every: int = setting(50, 1, incidental=True)
    sample_every: int = setting(1000, 1, incidental=True)


@dataclass
class DreamboothConfig:
    """A prior learns a subject from a few pictures; the defaults are MVDream's for Stable Diffusion 2.1."""

    batch_size: int = setting(4, 1)
    lr: float = setting(2e-6, 0)
    weight_decay: float = setting(0.01, 0)
    l1_weight: float = setting(1.0, 0)  # of the mean absolute change of the trained parameters
    train_text_encoder: bool = False  # otherwise only the embeddings of words that are new to it
    lora_rank: int = setting(0, 0, 4096)  # 0: the UNet's own weights are trained; otherwise an adapter of this rank
    preservation_weight: float = setting(0.0, 0)  # of the loss on the untuned prior's pictures of the class; 0: none
    preservation_images: int = setting(16, 1)
    remove_background: bool = False  # of pictures without alpha, by rembg
