"""The scene: what it is, the cameras that look at it, how it is optimised and lit, and fitted to pictures."""

from dataclasses import dataclass, field
from enum import Enum

from threedgen.config.schedules import Schedule
from threedgen.config.setting import setting


class BackendName(Enum):
    auto = "auto"  # native, or plain where it cannot be compiled
    native = "native"  # the kernels of cuda_ext
    plain = "plain"  # torch alone: what each op means
    reference = "plain"  # the same, as recipes of before call it
    nerfacc = "nerfacc"  # marching and compositing by nerfacc (CUDA)
    tinycudann = "tinycudann"  # the network by tiny-cuda-nn (CUDA)
    gsplat = "gsplat"  # Gaussians by gsplat (CUDA)


class Geometry(Enum):
    """What the scene's shape is written as."""

    density = "density"  # NeRF
    sdf = "sdf"  # a signed distance, rendered as NeuS does


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
    elevation_deg_range: tuple[float, float] = setting((0.0, 30.0), -89.9, 89.9)  # at the poles "up" means nothing


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


@dataclass
class ReconstructConfig:
    """A scene from posed pictures."""

    rays_per_step: int = setting(8192, 1, 1 << 24)
    opacity_weight: float = setting(0.02, 0)  # of the squared error of opacity, where there is alpha; the colours' is 1
    distortion: Schedule = setting(lambda: Schedule(0.0, 0.05, 0.0, 0.5), 0)  # weight: surfaces, not fog
    smoothness_weight: float = setting(0.0, 0)  # as refine.smoothness_weight; the colours' is 1
    eikonal_weight: float = setting(0.03, 0)  # with geometry sdf, as regularizer.eikonal; the colours' is 1
    scale: float = setting(0.0, 0, 1e6)  # of the cameras' world; 0: chosen, see `normalization` in data/posed_images.py
    max_size: int = setting(800, 0, 65536)  # pixels: larger pictures are made smaller; 0: they stay
    held_out_every: int = setting(8, 0)  # of so many pictures one is kept for measuring; 0: none
    masks: MaskUse = MaskUse.empty  # what is black in mask_path of transforms.json, or in masks/
