"""Scenes of 3D Gaussians (Kerbl et al. 2023).

cloud.py     Gaussians, which render like a NeRF, can be moved, and are a field that export makes a mesh of
learned.py   LearnedGaussians, the same as parameters
ply.py       the files that viewers of Gaussians open
lgm.py       what LGM's network is given, and its answer as Gaussians
"""

from threedgen.scene.gaussians.cloud import Gaussians
from threedgen.scene.gaussians.learned import LearnedGaussians
from threedgen.scene.gaussians.lgm import gaussians_of_channels, lgm_frame, lgm_inputs
from threedgen.scene.gaussians.ply import load_gaussians, save_gaussians

__all__ = [
    "Gaussians",
    "LearnedGaussians",
    "gaussians_of_channels",
    "lgm_frame",
    "lgm_inputs",
    "load_gaussians",
    "save_gaussians",
]
