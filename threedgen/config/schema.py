"""Every knob of the toolkit, as dataclasses with their defaults.

Importing this module imports no torch. A recipe in `configs/` states only what differs from the defaults below.
Fractions of a run (`*_fraction`) go from 0 at the first step to 1 at the last, so that a shorter run
anneals as far as a long one.
"""

from dataclasses import dataclass, field
from enum import Enum


class Task(Enum):
    generate = "generate"
    sample_views = "sample_views"
    train_prior = "train_prior"
    evaluate = "evaluate"


class GuidanceLoss(Enum):
    reconstruction = "reconstruction"  # MVDream: 0.5 * ||z - x0_hat||^2
    sds = "sds"  # DreamFusion: gradient w(t) * (noise_hat - noise)


@dataclass
class Schedule:
    """A value that moves linearly from `start` to `end` between two fractions of the run, constant outside."""

    start: float = 0.0
    end: float = 0.0
    from_fraction: float = 0.0
    to_fraction: float = 1.0


@dataclass
class CameraConfig:
    """Training cameras: `num_views` views 90 degrees apart (360 / num_views) around one object."""

    num_views: int = 4
    sets_per_step: int = 1  # sets of views a step, each with angles and distance of its own
    resolution: int = 64  # pixels, square
    coarse_resolution: int = 64  # pixels, used for the first coarse_fraction of the steps
    coarse_fraction: float = 0.0
    fov_y_deg_range: tuple[float, float] = (15.0, 60.0)
    distance_range: tuple[float, float] = (0.8, 1.0)  # times 1 / tan(fov_y / 2): half the view's height at the origin
    elevation_deg_range: tuple[float, float] = (0.0, 30.0)


@dataclass
class GridConfig:
    """Multi-resolution hash grid (Instant-NGP, Mueller et al. 2022)."""

    num_levels: int = 16
    num_features: int = 2  # per level
    log2_table_size: int = 19
    base_resolution: int = 16
    max_resolution: int = 4096


@dataclass
class SceneConfig:
    grid: GridConfig = field(default_factory=GridConfig)
    hidden_width: int = 64
    num_hidden_layers: int = 1
    radius: float = 1.0  # the scene is the cube [-radius, radius]^3
    blob_density: float = 10.0  # density bias blob_density * (1 - |p| / blob_radius), before softplus
    blob_radius: float = 0.5
    density_scale: float = 1.0  # density = density_scale * softplus(...), per unit length
    samples_per_ray: int = 512  # across the cube's diagonal
    occupancy_resolution: int = 32
    occupancy_every: int = 16  # steps between refreshes
    occupancy_warmup: int = 256  # steps in which every cell is refreshed
    occupancy_decay: float = 0.95
    background_random_probability: float = 0.5  # chance that a step shows the scene on one random colour


@dataclass
class OptimizerConfig:
    """AdamW; one learning rate per part of the scene."""

    grid_lr: float = 0.01
    network_lr: float = 0.001
    background_lr: float = 0.001
    lr_scale: Schedule = field(default_factory=lambda: Schedule(1.0, 1.0))  # times each of the three
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    weight_decay: float = 0.01


@dataclass
class GuidanceConfig:
    loss: GuidanceLoss = GuidanceLoss.reconstruction
    guidance_scale: float = 50.0
    rescale: float = 0.5  # 0: none, 1: x0 has the standard deviation of the conditional x0
    min_timestep: Schedule = field(default_factory=lambda: Schedule(0.98, 0.02, 0.0, 0.8))
    max_timestep: Schedule = field(default_factory=lambda: Schedule(0.98, 0.50, 0.0, 0.8))
    image_size: int = 256  # pixels that the prior's encoder sees
    gradient_clip: float = 0.0  # largest norm per image of the gradient w.r.t. the latents; 0: no limit


@dataclass
class RegularizerConfig:
    """Weights of the scene's own losses; 0 switches one off."""

    sparsity: Schedule = field(default_factory=Schedule)  # mean sqrt(opacity^2 + 0.01)
    opaque: Schedule = field(default_factory=Schedule)  # mean binary entropy of the opacity


@dataclass
class ExportConfig:
    resolution: int = 128  # cells of the isosurface grid along one edge
    threshold: float = 0.0  # density of the surface; 0: chosen automatically
    texture_size: int = 1024  # pixels, square
    turntable_frames: int = 60
    image_size: int = 256  # pixels of the turntable and of the contact sheet's tiles


@dataclass
class ViewsConfig:
    """Multi-view images from text (the MVDream API's names and ranges)."""

    image_size: int = 256
    num_frames: int = 4
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    rescale: float = 0.0
    camera_elevation: float = 15.0  # degrees
    camera_azimuth: float = 90.0  # degrees; 90 looks at the front
    camera_azimuth_span: float = 360.0  # degrees


@dataclass
class TrainConfig:
    """Training of a multi-view prior on captioned objects."""

    multiview_probability: float = 0.7
    text_drop_probability: float = 0.1
    batch_objects: int = 8
    steps: int = 7000
    lr: float = 1e-3
    warmup_steps: int = 100
    decay_fraction: float = 0.6  # the last part of the run in which the learning rate falls linearly to 1 %
    ema_decay: float = 0.999
    vae_steps: int = 1400
    vae_lr: float = 7e-4
    vae_batch: int = 8
    render_workers: int = 2  # processes that draw the training pictures
    num_objects: int = 4000
    num_patterned_images: int = 6000
    checkpoint_every: int = 500
    log_every: int = 50
    sample_every: int = 1000


@dataclass
class EvalConfig:
    prompts: int = 6
    num_cameras: int = 16
    image_size: int = 64
    views: tuple[int, ...] = (4, 1)  # guidance with this many views, one column of the table each
    workers: int = 1  # prompts evaluated at once, each in a process of its own


@dataclass
class Config:
    task: Task = Task.generate
    prompt: str = ""
    negative_prompt: str = ""
    prompts: str = ""  # a file with one prompt a line; `prompt` is then not used
    weights: str = "mini"  # `mini` (bundled) or a folder in diffusers' layout
    allow_unknown_words: bool = False
    output_root: str = "outputs"
    seed: int = 0
    num_threads: int = 0  # 0: torch's own choice
    steps: int = 10000
    checkpoint_every: int = 500
    preview_every: int = 500
    camera: CameraConfig = field(default_factory=CameraConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
