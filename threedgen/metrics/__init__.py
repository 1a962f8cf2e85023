"""How good is it: images against images, surfaces against surfaces, and faces where none should be."""

from threedgen.metrics.bootstrap import Interval, mean_interval, paired_difference
from threedgen.metrics.geometry import chamfer_distance, sample_surface
from threedgen.metrics.image import border_color, contrast, drawn_silhouette, psnr, saturation, silhouette_iou, ssim
from threedgen.metrics.janus import JanusScore, colour_fraction, janus_score

__all__ = [
    "Interval",
    "JanusScore",
    "border_color",
    "chamfer_distance",
    "colour_fraction",
    "contrast",
    "drawn_silhouette",
    "janus_score",
    "mean_interval",
    "paired_difference",
    "psnr",
    "sample_surface",
    "saturation",
    "silhouette_iou",
    "ssim",
]
