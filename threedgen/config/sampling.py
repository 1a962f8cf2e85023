"""Views from a prior, and the Gaussians that are made of them."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from threedgen.config.guidance import JointConfig
from threedgen.config.setting import setting
from threedgen.config.views import ViewSettings


class Sampler(Enum):
    """How noise becomes views. The last two look back on earlier steps, and mean to need fewer."""

    ddim = "ddim"  # Song et al. 2021, as MVDream and VideoMV use it
    ddim_trailing = "ddim_trailing"  # the same from the schedule's end on, in just so many steps (Lin et al. 2024)
    dpm = "dpm"  # DPM-Solver++ of second order (Lu et al. 2022)
    unipc = "unipc"  # UniPC of second order (Zhao et al. 2023)

    @property
    def looks_back(self) -> bool:
        return self in (Sampler.dpm, Sampler.unipc)


@dataclass
class ViewsConfig(ViewSettings):
    """Multi-view images from text: the public API's inputs (`views.py` has them) and six of ours."""

    sampler: Sampler = Sampler.ddim
    guidance_range: tuple[float, float] = setting((0.0, 1.0), 0, 1)  # as guidance.guidance_range
    rescale: float = setting(0.0, 0, 1)  # 0: none, 1: x0 has the standard deviation of the conditional x0
    image_pinned: bool = False  # of a prior that is shown a picture: the first view is that picture
    transparent: bool = False  # the files have alpha, from the background's one colour; with remove_background by rembg
    joint: JointConfig = field(default_factory=JointConfig)

    def inputs(self) -> dict[str, Any]:
        """What `MultiViewPipeline` is called with: all but `joint`, and `transparent`, which is of the files."""
        return {name: value for name, value in vars(self).items() if name not in ("joint", "transparent")}

    def sampling(self) -> dict[str, Any]:
        """How views are drawn, as `diffusion.sampling.sample_views` takes it, whatever their cameras."""
        names = ("num_inference_steps", "guidance_scale", "guidance_range", "rescale", "sampler")
        return {name: getattr(self, name) for name in names}


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


class QuaternionNorm(Enum):
    """How a network's quaternions become rotations."""

    each = "each"  # each is scaled to unit length
    all = "all"  # w, x, y and z of all Gaussians of an object each have unit length, and so they are used


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
    clean_steps: int = setting(0, 0)  # at first: of the true pictures, without noise and without the prior
    supervised_views: int = setting(8, 1, 64)  # of all, by chance, that training compares
    opacity_weight: float = setting(1.0, 0)  # of the squared error of opacity; the colours' is 1
    asset: AssetFrom = AssetFrom.gaussians
