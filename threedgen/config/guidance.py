"""What a prior says of a scene: distillation, refinement, and a 2D model beside the prior."""

from dataclasses import dataclass, field
from enum import Enum

from threedgen.config.schedules import Schedule, ShapedSchedule
from threedgen.config.setting import setting


class GuidanceLoss(Enum):
    reconstruction = "reconstruction"  # MVDream: 0.5 * ||z - x0_hat||^2
    sds = "sds"  # DreamFusion: gradient w(t) * (noise_hat - noise)


OWN_2D_MODE = "own"  # as `joint.weights`: the multi-view prior itself, asked for single pictures


class JointMode(Enum):
    """How a multi-view and a 2D model answer together; w is `multiview_weight`."""

    mix = "mix"  # w * multi-view + (1 - w) * 2D: samples of p_multiview^w * p_2d^(1 - w)
    consistency = "consistency"  # 2D + w * (multi-view of all views - multi-view of each view alone)


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
    guidance_range: tuple[float, float] = setting((0.0, 1.0), 0, 1)  # of the schedule; no other timestep is guided
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
    weights: str = ""  # of the prior that draws, where that is not the one that drew before (task dense_views)
    sets: int = setting(8, 1, 1024)  # of camera.num_views views that a round draws
    rays_per_step: int = setting(0, 0)  # random pixels of them that a step fits; 0: whole sets, camera.sets_per_step
    # the timestep that they are noised to, as a fraction of the schedule: from the first round to the last
    strength: Schedule = setting(lambda: Schedule(0.5, 0.5), 0.001, 1)
    num_inference_steps: int = setting(40, 1, 1000)  # of the whole schedule
    guidance_scale: float = setting(7.5, 0)
    guidance_range: tuple[float, float] = setting((0.0, 1.0), 0, 1)  # as guidance.guidance_range
    rescale: float = setting(0.0, 0, 1)
    steps: int = setting(120, 1)  # of fitting to a round's views
    coarse_rounds: int = setting(0, 0, 1000)  # the first rounds, fitted at camera.coarse_resolution
    background_random_probability: float = setting(0.0, 0, 1)  # chance that a set is drawn and fitted on any colour
    sparsity_weight: float = setting(0.0, 0)  # of the mean of sqrt(opacity^2 + 0.01): less of everything
    # by as much colours differ before they count by their distance and no longer by its square; 0: always the square
    huber: float = setting(0.0, 0, 1)
    opaque_weight: float = setting(0.005, 0)  # of the mean binary entropy of the opacity: surfaces, not fog
    smoothness_weight: float = setting(0.0, 0)  # of the field's change from sample to sample: clean surfaces, no grain
    eikonal_weight: float = setting(0.03, 0)  # with geometry sdf, as regularizer.eikonal
    lr_scale: Schedule = setting(lambda: Schedule(0.5, 0.05), 0)  # times the optimizer's rates, over all rounds
