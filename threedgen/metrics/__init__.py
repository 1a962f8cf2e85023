"""How good is it: images against images, surfaces against surfaces, views against each other, and faces where none
should be."""

from threedgen.metrics.azimuth import AzimuthErrors, azimuth_errors, tells_azimuth
from threedgen.metrics.bootstrap import Interval, mean_interval, paired_difference
from threedgen.metrics.clip_score import CLIPScore
from threedgen.metrics.consistency import unexplained
from threedgen.metrics.distribution import SetDistance, set_distance
from threedgen.metrics.flow import Flow, OpticalFlow, WarpedError, flow_around, flow_seen, warped_error
from threedgen.metrics.geometry import (
    chamfer_distance,
    normal_angle,
    sample_surface,
    sample_surface_with_normals,
    volume_iou,
)
from threedgen.metrics.image import border_color, contrast, drawn_silhouette, psnr, saturation, silhouette_iou, ssim
from threedgen.metrics.janus import JanusScore, colour_fraction, janus_score
from threedgen.metrics.novel_view import NovelViews, NovelViewScore
from threedgen.metrics.pattern import PatternVerdicts, named_patterns
from threedgen.metrics.perceptual import LPIPS, feature_distance
from threedgen.metrics.raft import raft_flow

__all__ = [
    "LPIPS",
    "AzimuthErrors",
    "CLIPScore",
    "Flow",
    "Interval",
    "JanusScore",
    "NovelViewScore",
    "NovelViews",
    "OpticalFlow",
    "PatternVerdicts",
    "SetDistance",
    "WarpedError",
    "azimuth_errors",
    "border_color",
    "chamfer_distance",
    "colour_fraction",
    "contrast",
    "drawn_silhouette",
    "feature_distance",
    "flow_around",
    "flow_seen",
    "janus_score",
    "mean_interval",
    "named_patterns",
    "normal_angle",
    "paired_difference",
    "psnr",
    "raft_flow",
    "sample_surface",
    "sample_surface_with_normals",
    "saturation",
    "set_distance",
    "silhouette_iou",
    "ssim",
    "tells_azimuth",
    "unexplained",
    "volume_iou",
    "warped_error",
]
