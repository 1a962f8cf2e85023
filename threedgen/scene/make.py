"""Which scene a config asks for."""

import torch

from threedgen.config.runtime import MemoryUse
from threedgen.config.scene import Geometry
from threedgen.config.schema import Config
from threedgen.scene.nerf import NeRF
from threedgen.scene.neus import NeuS
from threedgen.scene.protocol import RayScene


def make_scene(config: Config, device: torch.device) -> RayScene:
    """The config's scene as it is before the first step."""
    kind = {Geometry.density: NeRF, Geometry.sdf: NeuS}[config.scene.geometry]
    return kind(config.scene, config.seed, device, low_memory=config.runtime.memory is MemoryUse.low)
