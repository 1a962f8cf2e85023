"""How good is it: images against images, surfaces against surfaces, and faces where none should be."""

from threedgen.metrics.geometry import chamfer_distance, sample_surface
from threedgen.metrics.image import psnr, silhouette_iou, ssim
from threedgen.metrics.janus import JanusScore, colour_fraction, janus_score

__all__ = [
    "JanusScore",
    "chamfer_distance",
    "colour_fraction",
    "janus_score",
    "psnr",
    "sample_surface",
    "silhouette_iou",
    "ssim",
]
