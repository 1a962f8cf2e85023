"""Every knob of the toolkit, as dataclasses with their defaults.

Importing this module imports no torch. A recipe in `configs/` states only what differs from the defaults below.
Fractions of a run (`*_fraction`) go from 0 at the first step to 1 at the last, so that a shorter run
anneals as far as a long one.
"""

from dataclasses import dataclass, field
from enum import Enum

from threedgen.config.views import ViewSettings


class Task(Enum):
    generate = "generate"
    sample_views = "sample_views"
    train_prior = "train_prior"
    evaluate = "evaluate"
    reconstruct = "reconstruct"


class GuidanceLoss(Enum):
    reconstruction = "reconstruction"  # MVDream: 0.5 * ||z - x0_hat||^2
    sds = "sds"  # DreamFusion: gradient w(t) * (noise_hat - noise)


class BackendName(Enum):
    auto = "auto"  # native, or reference where it cannot be compiled
    native = "native"  # the kernels of cuda_ext
    reference = "reference"  # plain torch
    nerfacc = "nerfacc"  # marching and compositing by nerfacc (CUDA)
    tinycudann = "tinycudann"  # the network by tiny-cuda-nn (CUDA)


class DeviceName(Enum):
    auto = "auto"  # cuda if there is one
    cpu = "cpu"
    cuda = "cuda"


class MeshColors(Enum):
    texture = "texture"
    vertex = "vertex"  # a colour at every vertex: no unwrapping, so faster and less sharp


class RasterizerName(Enum):
    auto = "auto"  # kaolin where it imports and torch finds a CUDA device, otherwise native
    native = "native"  # on the CPU: Embree rays for views
    kaolin = "kaolin"


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
    coarse_sets_per_step: int = 0  # the same while the resolution is the coarse one; 0: as sets_per_step
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
    backend: BackendName = BackendName.auto
    grid: GridConfig = field(default_factory=GridConfig)
    hidden_width: int = 64
    num_hidden_layers: int = 1
    radius: float = 1.0  # the scene is the cube [-radius, radius]^3
    blob_density: float = 10.0  # density bias blob_density * (1 - |p| / blob_radius), before softplus
    blob_radius: float = 0.5
    density_scale: float = 1.0  # density = density_scale * softplus(...), per unit length
    samples_per_ray: int = 512  # across the cube's diagonal
    min_transmittance: float = 1e-4  # samples that less of the light reaches are left out
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
    orientation: Schedule = field(default_factory=Schedule)  # surfaces that face away from their camera; needs normals


@dataclass
class ShadingConfig:
    """A point light in training, as DreamFusion has it; needs normals, so a step takes longer."""

    enabled: bool = False
    from_fraction: float = 0.5  # of the run; before it the object shows its plain colours
    diffuse_probability: float = 0.75  # chance that a step is lit by the light
    textureless_probability: float = 0.5  # chance that a lit step shows the object white
    light_distance_range: tuple[float, float] = (0.8, 1.5)  # from the origin, world units
    light_position_noise: float = 1.0  # of the light's direction, against the camera's position


@dataclass
class ExportConfig:
    resolution: int = 128  # cells of the isosurface grid along the longest edge of the object's box
    threshold: float = 0.0  # density of the surface; 0: chosen automatically
    faces: int = 20000  # about so many at most; 0: all that the isosurface has
    smooth: int = 0  # iterations of Taubin's filter
    colors: MeshColors = MeshColors.texture
    texture_size: int = 1024  # pixels, square
    ply: bool = False  # also write asset.ply with a colour at every vertex
    rasterizer: RasterizerName = RasterizerName.auto
    turntable_frames: int = 120
    image_size: int = 256  # pixels of the turntable and of the contact sheet's tiles


@dataclass
class ViewsConfig(ViewSettings):
    """Multi-view images from text: the public API's inputs (`views.py` has them) and one of ours."""

    rescale: float = 0.0  # 0: none, 1: x0 has the standard deviation of the conditional x0


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
class ReconstructConfig:
    """A scene from posed pictures."""

    rays_per_step: int = 8192
    opacity_weight: float = 0.02  # of the opacity's squared error, where the pictures have alpha; the colours' is 1
    distortion: Schedule = field(default_factory=lambda: Schedule(0.0, 0.05, 0.0, 0.5))  # weight: surfaces, not fog
    scale: float = 0.0  # of the cameras' world; 0: chosen, see `normalization` in data/posed_images.py
    max_size: int = 800  # pixels: larger pictures are made smaller; 0: they stay
    held_out_every: int = 8  # of so many pictures one is kept for measuring; 0: none


@dataclass
class EvalConfig:
    prompts: int = 6
    num_cameras: int = 16
    image_size: int = 64
    views: tuple[int, ...] = (4, 1)  # guidance with this many views, one column of the table each
    workers: int = 1  # prompts evaluated at once, each in a process of its own


class MemoryUse(Enum):
    normal = "normal"
    low = "low"  # for cards of 12 GB: large renders and the VAE's encoder are computed again for their gradients


@dataclass
class RuntimeConfig:
    device: DeviceName = DeviceName.auto
    memory: MemoryUse = MemoryUse.normal
    deterministic: bool = False  # on CUDA too the same run gives the same bits, more slowly; a CPU always does


@dataclass
class Config:
    task: Task = Task.generate
    prompt: str = ""
    negative_prompt: str = ""
    prompts: str = ""  # a file with one prompt a line; `prompt` is then not used
    data: str = ""  # task reconstruct: a folder of pictures with cameras.json or transforms.json
    weights: str = "mini"  # `mini` (bundled), a folder in diffusers' layout, or a hub id (owner/name)
    allow_unknown_words: bool = False
    output_root: str = "outputs"
    seed: int = 0  # or `random`: one is drawn, shown and kept in the run's config.yaml
    num_threads: int = 0  # 0: torch's own choice
    steps: int = 10000
    checkpoint_every: int = 500
    preview_every: int = 500
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    shading: ShadingConfig = field(default_factory=ShadingConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
