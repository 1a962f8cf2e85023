"""Every knob of the toolkit, as dataclasses with their defaults: the sections' own are in the files beside this one.

Importing these modules imports no torch. A recipe in `configs/` states only what differs from the defaults.
Fractions of a run (`*_fraction`) go from 0 at the first step to 1 at the last, so that a shorter run
anneals as far as a long one.
"""

from dataclasses import dataclass, field
from enum import Enum

from threedgen.config.evaluation import AblationConfig, EvalConfig
from threedgen.config.export import ExportConfig
from threedgen.config.guidance import GuidanceConfig, RefineConfig
from threedgen.config.runtime import BatchConfig, RuntimeConfig, ViewerConfig
from threedgen.config.sampling import AwareConfig, GaussiansConfig, ViewsConfig
from threedgen.config.scene import (
    CameraConfig,
    DataConvention,
    OptimizerConfig,
    ReconstructConfig,
    RegularizerConfig,
    SceneConfig,
    ShadingConfig,
)
from threedgen.config.setting import setting
from threedgen.config.training import DreamboothConfig, TrainConfig


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
