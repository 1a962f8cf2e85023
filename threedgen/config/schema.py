"""Every knob of the toolkit, as dataclasses with their defaults.

Importing this module imports no torch. A recipe in `configs/` states only what differs from the defaults below.
Fractions of a run (`*_fraction`) go from 0 at the first step to 1 at the last, so that a shorter run
anneals as far as a long one.
"""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from threedgen.config.views import ViewSettings


class Task(Enum):
    generate = "generate"
    sample_views = "sample_views"
    train_prior = "train_prior"
    evaluate = "evaluate"
    ablation = "ablation"
    reconstruct = "reconstruct"
    dreambooth = "dreambooth"
    dense_views = "dense_views"
    train_gaussians = "train_gaussians"


DRAWING = (Task.generate, Task.sample_views, Task.dense_views)  # tasks that make something of a prompt


class GuidanceLoss(Enum):
    reconstruction = "reconstruction"  # MVDream: 0.5 * ||z - x0_hat||^2
    sds = "sds"  # DreamFusion: gradient w(t) * (noise_hat - noise)


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


class PriorNetwork(Enum):
    """What a prior in training is."""

    multiview = "multiview"  # MVDream: the views of an object see each other in every self-attention
    video = "video"  # VideoMV: they are frames of a video, in their order


class Trainable(Enum):
    """Which of a network's tensors training changes."""

    all = "all"
    picture = "picture"  # what meets the picture: its own layers, and those that hear of it in each frame


class QuaternionNorm(Enum):
    """How a network's quaternions become rotations."""

    each = "each"  # each is scaled to unit length
    all = "all"  # w, x, y and z of all Gaussians of an object each have unit length, and so they are used


class BackendName(Enum):
    auto = "auto"  # native, or reference where it cannot be compiled
    native = "native"  # the kernels of cuda_ext
    reference = "reference"  # plain torch
    nerfacc = "nerfacc"  # marching and compositing by nerfacc (CUDA)
    tinycudann = "tinycudann"  # the network by tiny-cuda-nn (CUDA)
    gsplat = "gsplat"  # Gaussians by gsplat (CUDA)


class Geometry(Enum):
    """What the scene's shape is written as."""

    density = "density"  # NeRF
    sdf = "sdf"  # a signed distance, rendered as NeuS does


class DataConvention(Enum):
    """What the matrices of a cameras' file are; docs/howto/reconstruct.md."""

    opengl = "opengl"  # camera to world, a camera's axes right, up, back
    opencv = "opencv"  # camera to world, right, down, forward
    opengl_world_to_camera = "opengl_world_to_camera"
    opencv_world_to_camera = "opencv_world_to_camera"


class MaskUse(Enum):
    """What is black in a mask beside a picture."""

    empty = "empty"  # empty space: the mask is the object's
    ignored = "ignored"  # not looked at, such as people who walk through


class Executor(Enum):
    """Where the workers of a batch are."""

    processes = "processes"  # on this machine
    ray = "ray"  # tasks on the nodes of a Ray cluster, which see the same files


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


def setting(default: Any, low: float = -math.inf, high: float = math.inf, *, incidental: bool = False) -> Any:
    """A field with what is to be known of it beside its value.

    default: or a function that makes it; low, high: of a number, of each in a tuple, or of a schedule's two ends, both
    allowed; incidental: it changes how a run is carried out, never what comes out: a run may go on with another.
    """
    metadata = {"range": (low, high), "incidental": incidental}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Schedule:
    """A value that moves linearly from `start` to `end` between two fractions of the run, constant outside."""

    start: float = 0.0
    end: float = 0.0
    from_fraction: float = 0.0
    to_fraction: float = 1.0


class Shape(Enum):
    """How a schedule goes from its start to its end; p is how far it is between its two fractions, 0 .. 1."""

    linear = "linear"  # p
    power = "power"  # p ** exponent
    cosine = "cosine"  # (1 - cos(pi p)) / 2
    step = "step"  # 0, from the middle on 1


@dataclass
class ShapedSchedule(Schedule):
    """A `Schedule` that need not be linear in between."""

    shape: Shape = Shape.linear
    exponent: float = setting(2.0, 0.01, 100)  # of shape power


@dataclass
class CameraConfig:
    """Training cameras: `num_views` views 90 degrees apart (360 / num_views) around one object."""

    num_views: int = setting(4, 1, 64)
    spacing_deg: float = setting(0.0, 0, 360)  # between neighbours, for a few of a dense prior's; 0: 360 / num_views
    sets_per_step: int = setting(1, 1, 64)  # sets of views a step, each with angles and distance of its own
    coarse_sets_per_step: int = setting(0, 0, 64)  # the same while the resolution is coarse; 0: as sets_per_step
    resolution: int = setting(64, 1, 8192)  # pixels, square
    coarse_resolution: int = setting(64, 1, 8192)  # pixels, used for the first coarse_fraction of the steps
    coarse_fraction: float = setting(0.0, 0, 1)
    fov_y_deg_range: tuple[float, float] = setting((15.0, 60.0), 0.1, 179)
    # times 1 / tan(fov_y / 2): half the view's height at the origin
    distance_range: tuple[float, float] = setting((0.8, 1.0), 0.001, 1e6)
    elevation_deg_range: tuple[float, float] = setting((0.0, 30.0), -90, 90)


@dataclass
class GridConfig:
    """Multi-resolution hash grid (Instant-NGP, Mueller et al. 2022)."""

    num_levels: int = setting(16, 1, 64)
    num_features: int = setting(2, 1, 64)  # per level
    log2_table_size: int = setting(19, 1, 30)
    base_resolution: int = setting(16, 2, 65536)
    max_resolution: int = setting(4096, 2, 1 << 20)


@dataclass
class SDFConfig:
    """Of geometry sdf, which has no use for blob_density, blob_radius and density_scale."""

    sphere_radius: float = setting(0.5, 0.01, 0.99)  # of the sphere that it starts as, times scene.radius
    sharpness: float = setting(20.0, 1, 1e4)  # s at the start, over scene.radius: opacity rises within radius / s
    eikonal_points: int = setting(4096, 1, 1 << 24)  # of a step, at which the gradient is measured


@dataclass
class SceneConfig:
    geometry: Geometry = Geometry.density
    backend: BackendName = setting(BackendName.auto, incidental=True)
    grid: GridConfig = field(default_factory=GridConfig)
    hidden_width: int = setting(64, 1, 8192)
    num_hidden_layers: int = setting(1, 0, 64)
    radius: float = setting(1.0, 1e-06, 1e6)  # the scene is the cube [-radius, radius]^3
    blob_density: float = 10.0  # density bias blob_density * (1 - |p| / blob_radius), before softplus
    blob_radius: float = setting(0.5, 1e-06, 1e6)
    density_scale: float = setting(1.0, 1e-09)  # density = density_scale * softplus(...), per unit length
    sdf: SDFConfig = field(default_factory=SDFConfig)
    samples_per_ray: int = setting(512, 1, 65536)  # across the cube's diagonal
    min_transmittance: float = setting(1e-4, 0, 1)  # samples that less of the light reaches are left out
    occupancy_resolution: int = setting(32, 1, 1024)
    occupancy_every: int = setting(16, 1)  # steps between refreshes
    occupancy_warmup: int = setting(256, 0)  # steps in which every cell is refreshed
    occupancy_decay: float = setting(0.95, 0, 1)
    background_random_probability: float = setting(0.5, 0, 1)  # chance that a step shows the scene on one random colour


@dataclass
class OptimizerConfig:
    """AdamW; one learning rate per part of the scene."""

    grid_lr: float = setting(0.01, 0)
    network_lr: float = setting(0.001, 0)
    background_lr: float = setting(0.001, 0)
    sharpness_lr: float = setting(0.03, 0)  # of log s, with geometry sdf
    lr_scale: Schedule = setting(lambda: Schedule(1.0, 1.0), 0)  # times each of them
    betas: tuple[float, float] = setting((0.9, 0.99), 0, 0.999999999)
    eps: float = setting(1e-15, 0)
    weight_decay: float = setting(0.01, 0)


class JointMode(Enum):
    """How a multi-view and a 2D model answer together; w is `multiview_weight`."""

    mix = "mix"  # w * multi-view + (1 - w) * 2D: samples of p_multiview^w * p_2d^(1 - w)
    consistency = "consistency"  # 2D + w * (multi-view of all views - multi-view of each view alone)


OWN_2D_MODE = "own"  # as `joint.weights`: the multi-view prior itself, asked for single pictures


@dataclass
class JointConfig:
    """A 2D model beside the multi-view prior: its looks on that one's geometry."""

    weights: str = ""  # "": none; `own`: the prior's 2D mode; or as `weights`, also a 2D Stable Diffusion
    prompt: str = ""  # what the 2D model reads; "": the same prompt, as it was typed
    mode: JointMode = JointMode.mix
    # over the sampling's progress 1 - t / 1000, whatever the number of steps
    multiview_weight: ShapedSchedule = field(default_factory=lambda: ShapedSchedule(0.75, 0.75))
    guidance_scale: float = setting(0.0, 0)  # of the 2D model; 0: that of the multi-view prior
    self_camera: bool = False  # mode consistency: a view alone is told its camera; otherwise it is in 2D mode


@dataclass
class GuidanceConfig:
    loss: GuidanceLoss = GuidanceLoss.reconstruction
    guidance_scale: float = 50.0
    rescale: float = setting(0.5, 0, 1)  # 0: none, 1: x0 has the standard deviation of the conditional x0
    min_timestep: Schedule = setting(lambda: Schedule(0.98, 0.02, 0.0, 0.8), 0, 1)
    max_timestep: Schedule = setting(lambda: Schedule(0.98, 0.50, 0.0, 0.8), 0, 1)
    image_size: int = setting(256, 8, 8192)  # pixels that the prior's encoder sees
    gradient_clip: float = setting(0.0, 0)  # largest norm per image of the gradient w.r.t. the latents; 0: no limit
    joint: JointConfig = field(default_factory=JointConfig)  # in refinement too


@dataclass
class RefineConfig:
    """After distillation the scene's own views, partly noised, are denoised by the prior, all views of a set together,
    and the scene is fitted to them (SDEdit, Meng et al. 2022, in rounds)."""

    rounds: int = setting(0, 0, 1000)
    sets: int = setting(8, 1, 1024)  # of camera.num_views views that a round draws
    strength: float = setting(0.5, 0.001, 1)  # the timestep that they are noised to, as a fraction of the schedule
    num_inference_steps: int = setting(40, 1, 1000)  # of the whole schedule
    guidance_scale: float = setting(7.5, 0)
    rescale: float = setting(0.0, 0, 1)
    steps: int = setting(120, 1)  # of fitting to a round's views
    opaque_weight: float = setting(0.005, 0)  # of the mean binary entropy of the opacity: surfaces, not fog
    eikonal_weight: float = setting(0.03, 0)  # with geometry sdf, as regularizer.eikonal
    lr_scale: Schedule = setting(lambda: Schedule(0.5, 0.05), 0)  # times the optimizer's rates, in each round


@dataclass
class RegularizerConfig:
    """Weights of the scene's own losses; 0 switches one off."""

    sparsity: Schedule = setting(Schedule, 0)  # mean sqrt(opacity^2 + 0.01)
    opaque: Schedule = setting(Schedule, 0)  # mean binary entropy of the opacity
    orientation: Schedule = setting(Schedule, 0)  # surfaces that face away from their camera; needs normals
    # with scene.geometry=sdf: mean (|gradient of the distance| - 1)^2
    eikonal: Schedule = setting(lambda: Schedule(1000.0, 1000.0), 0)


@dataclass
class ShadingConfig:
    """A point light in training, as DreamFusion has it; needs normals, so a step takes longer."""

    enabled: bool = False
    from_fraction: float = 0.5  # of the run; before it the object shows its plain colours
    diffuse_probability: float = setting(0.75, 0, 1)  # chance that a step is lit by the light
    textureless_probability: float = setting(0.5, 0, 1)  # chance that a lit step shows the object white
    light_distance_range: tuple[float, float] = setting((0.8, 1.5), 0.001, 1e6)  # from the origin, world units
    light_position_noise: float = setting(1.0, 0, 1e6)  # of the light's direction, against the camera's position


EXPORT_FORMATS = ("glb", "obj", "ply", "stl")  # what an asset can be written as


@dataclass
class ExportConfig:
    resolution: int = setting(128, 8, 1024)  # cells of the isosurface grid along the longest edge of the object's box
    threshold: float = setting(0.0, 0)  # density of the surface; 0: chosen automatically
    faces: int = setting(20000, 0)  # about so many at most; 0: all that the isosurface has
    smooth: int = setting(0, 0, 1000)  # iterations of Taubin's filter
    colors: MeshColors = MeshColors.texture
    texture_size: int = setting(1024, 16, 16384)  # pixels, square
    formats: tuple[str, ...] = ("glb", "obj")  # some of EXPORT_FORMATS; ply: a colour at every vertex; stl: none
    ply: bool = False  # the same as ply among the formats
    on_floor: bool = False  # the asset's lowest point at height 0; otherwise where the scene has it
    rasterizer: RasterizerName = RasterizerName.auto
    turntable_frames: int = setting(120, 1, 10000)
    image_size: int = setting(256, 8, 8192)  # pixels of the turntable and of the contact sheet's tiles


class Sampler(Enum):
    """How noise becomes views. The last two look back on earlier steps, and mean to need fewer."""

    ddim = "ddim"  # Song et al. 2021, as MVDream and VideoMV use it
    dpm = "dpm"  # DPM-Solver++ of second order (Lu et al. 2022)
    unipc = "unipc"  # UniPC of second order (Zhao et al. 2023)


@dataclass
class ViewsConfig(ViewSettings):
    """Multi-view images from text: the public API's inputs (`views.py` has them) and three of ours."""

    sampler: Sampler = Sampler.ddim
    rescale: float = setting(0.0, 0, 1)  # 0: none, 1: x0 has the standard deviation of the conditional x0
    transparent: bool = False  # the files have alpha, from the background's one colour; with remove_background by rembg
    joint: JointConfig = field(default_factory=JointConfig)

    def inputs(self) -> dict[str, Any]:
        """What `MultiViewPipeline` is called with: all but `joint`, and `transparent`, which is of the files."""
        return {name: value for name, value in vars(self).items() if name not in ("joint", "transparent")}


class AwareGuidance(Enum):
    """Where guidance stands in a 3D-aware step."""

    before = "before"  # it leads to one x0, which is reconstructed
    latents = "latents"  # VideoMV's released code: from the reconstruction without the prompt to the one with it


@dataclass
class AwareConfig:
    """3D-aware denoising (VideoMV, section 3.3): at some steps of sampling x0 becomes what feed-forward Gaussians of
    some of its views show to all of its cameras."""

    steps: tuple[int, ...] = setting((), 0, 1000)  # of the sampler's loop, counted from 0, such as [20, 30, 40] of 50
    every: int = setting(0, 0, 1000)  # or every so many steps; 0: none
    max_timestep: int = setting(700, 0, 999)  # none earlier, where x0 is a guess
    blend: float = setting(1.0, 0, 1)  # 0: x0 stays, 1: it is replaced
    guidance: AwareGuidance = AwareGuidance.before


class AssetFrom(Enum):
    """What the mesh of dense views is made of."""

    gaussians = "gaussians"  # the feed-forward ones: seconds
    views = "views"  # a scene that is fitted to them, as task reconstruct does it


@dataclass
class GaussiansConfig:
    """Gaussians from some of a dense prior's views in one pass (LGM, Tang et al. 2024), and their training."""

    weights: str = ""  # a folder with LGM's network, also to train on; "": the prior's own, or a new one to train
    input_views: int = setting(4, 1, 64)  # evenly spaced ones of all
    preset: str = "mini"  # what training begins with: big, small, tiny or mini of networks/lgm_unet.py
    max_timestep: int = setting(700, 0, 999)  # of the noise that training's x0 is freed from
    billboard_steps: int = setting(0, 0)  # at first: Gaussians on each picture's plane, compared one by one, unrendered
    supervised_views: int = setting(8, 1, 64)  # of all, by chance, that training compares
    opacity_weight: float = setting(1.0, 0)  # of the squared error of opacity; the colours' is 1
    asset: AssetFrom = AssetFrom.gaussians


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
    trainable: Trainable = Trainable.all
    view_attention: ViewAttention = ViewAttention.inflated  # of a multi-view network, as the next
    camera_input: CameraInput = CameraInput.timestep
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
    steps: int = setting(7000, 1)
    minutes: float = setting(0.0, 0)  # of the clock after which it ends at the latest; 0: only steps count
    lr: float = setting(1e-3, 0)
    warmup_steps: int = setting(100, 0)
    decay_fraction: float = setting(0.6, 0, 1)  # the last part, in which the rate falls linearly to 1 %
    betas: tuple[float, float] = setting((0.9, 0.99), 0, 0.999999999)
    weight_decay: float = setting(1e-3, 0)
    ema_decay: float = setting(0.999, 0, 1)
    vae: str = ""  # weights whose VAE is taken; "": that of start_from, or one is trained
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
    patterned_share: float = setting(0.5, 0, 1)  # of miniworld's single pictures that show a pattern
    checkpoint_every: int = setting(500, 1, incidental=True)
    log_every: int = setting(50, 1, incidental=True)
    sample_every: int = setting(1000, 1, incidental=True)


@dataclass
class ReconstructConfig:
    """A scene from posed pictures."""

    rays_per_step: int = setting(8192, 1, 1 << 24)
    opacity_weight: float = setting(0.02, 0)  # of the squared error of opacity, where there is alpha; the colours' is 1
    distortion: Schedule = setting(lambda: Schedule(0.0, 0.05, 0.0, 0.5), 0)  # weight: surfaces, not fog
    eikonal_weight: float = setting(0.03, 0)  # with geometry sdf, as regularizer.eikonal; the colours' is 1
    scale: float = setting(0.0, 0, 1e6)  # of the cameras' world; 0: chosen, see `normalization` in data/posed_images.py
    max_size: int = setting(800, 0, 65536)  # pixels: larger pictures are made smaller; 0: they stay
    held_out_every: int = setting(8, 0)  # of so many pictures one is kept for measuring; 0: none
    masks: MaskUse = MaskUse.empty  # what is black in mask_path of transforms.json, or in masks/


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


@dataclass
class EvalConfig:
    prompts: int = setting(6, 1)
    num_cameras: int = setting(16, 1, 1024)
    image_size: int = setting(64, 8, 8192)
    views: tuple[int, ...] = setting((4, 1), 1, 64)  # guidance with this many views, one column of the table each
    workers: int = setting(1, 1, 1024, incidental=True)  # prompts evaluated at once, each in a process of its own


# the tables of task ablation, in the order in which they are made
ABLATION_TABLES = ("views", "annealing", "guidance", "rescale", "loss", "attention", "camera", "data")
GUIDED_TABLES = ("joint", "joint-assets")  # another paper's, made where they are asked for


@dataclass
class AblationConfig:
    """The paper's ablations on held-out captions; cameras, picture size and processes are those of `eval`."""

    only: tuple[
        str, ...
    ] = ()  # some of ABLATION_TABLES, such as [views, rescale], or of GUIDED_TABLES; empty: the former
    prompts: int = setting(32, 1)
    pictured_prompts: int = setting(4, 1, 64)  # columns of a table's picture, two views each
    base_steps: int = setting(2000, 1)  # training on single pictures, from which every variant of the prior starts
    prior_steps: int = setting(5000, 1)  # training of each variant
    multiview_weights: str = ""  # of table joint: a prior that knows no pattern; "": trained, by train-plain-mini.yaml
    image_weights: str = ""  # and a 2D one that does; "": trained, by train-patterned-mini.yaml


class MemoryUse(Enum):
    normal = "normal"
    low = "low"  # for cards of 12 GB: large renders and the VAE's encoder are computed again for their gradients


class PriorPrecision(Enum):
    """Numbers that a prior which is not trained is held and multiplied in."""

    auto = "auto"  # float16 on a GPU; bfloat16 on a processor that multiplies it in hardware, on others float32
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class RuntimeConfig:
    device: DeviceName = setting(DeviceName.auto, incidental=True)
    precision: PriorPrecision = PriorPrecision.auto
    memory: MemoryUse = setting(MemoryUse.normal, incidental=True)
    deterministic: bool = False  # on CUDA too the same run gives the same bits, more slowly; a CPU always does


@dataclass
class BatchConfig:
    """How the runs of `prompts` and `seeds` are carried out."""

    workers: int = setting(0, 0, 1024, incidental=True)  # at once, each a process of its own; 0: one after another here
    timeout: float = setting(0.0, 0, incidental=True)  # minutes after which one is ended, with workers; 0: none
    executor: Executor = setting(Executor.processes, incidental=True)  # of the workers


@dataclass
class ViewerConfig:
    """The scene in a browser while it is optimised; the outcome is the same with and without."""

    enable: bool = setting(False, incidental=True)
    host: str = setting("127.0.0.1", incidental=True)  # another address needs a token
    port: int = setting(8080, 1, 65535, incidental=True)
    token: str = setting("", incidental=True)  # asked for by ?token=... in the address; "": nothing is
    share: float = setting(0.1, 0.001, 0.5, incidental=True)  # of wall time, at most
    size: int = setting(384, 16, 4096, incidental=True)  # pixels of the picture's longer edge


@dataclass
class Config:
    task: Task = Task.generate
    prompt: str = ""
    negative_prompt: str = ""
    prompts: str = ""  # a file with one prompt a line, or .jsonl with settings in each; `prompt` is then not used
    seeds: str = setting("", incidental=True)  # such as 0..3 or 1,5,9: each prompt with each of them
    image: str = ""  # task dense_views: a picture of the object, for a prior that is shown one
    image_border: float = setting(0.2, 0, 0.9)  # of it around the object, which is moved to the middle
    image_background: float = setting(0.5, 0, 1)  # grey level behind it, as in the prior's training
    remove_background: bool = False  # of a picture without alpha, by rembg
    data: str = ""  # task reconstruct: pictures with cameras.json, transforms.json or COLMAP's; dreambooth: pictures
    data_convention: DataConvention = DataConvention.opengl  # task reconstruct: what the cameras' matrices are
    weights: str = "mini"  # `mini` (bundled), a folder in diffusers' layout, or a hub id (owner/name)
    allow_unknown_words: bool = False
    output_root: str = setting("outputs", incidental=True)
    seed: int = 0  # or `random`: one is drawn, shown and kept in the run's config.yaml
    num_threads: int = setting(0, 0, 1024, incidental=True)  # 0: torch's own choice
    steps: int = setting(10000, 1)
    checkpoint_every: int = setting(500, 1, incidental=True)
    preview_every: int = setting(500, 1, incidental=True)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    viewer: ViewerConfig = field(default_factory=ViewerConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    shading: ShadingConfig = field(default_factory=ShadingConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    aware: AwareConfig = field(default_factory=AwareConfig)
    gaussians: GaussiansConfig = field(default_factory=GaussiansConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    dreambooth: DreamboothConfig = field(default_factory=DreamboothConfig)
