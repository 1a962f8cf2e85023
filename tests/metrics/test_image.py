import math

import numpy as np
import pytest
import torch

from threedgen.metrics import contrast, psnr, saturation, silhouette_iou, ssim


def pictures(seed, shape=(2, 16, 24, 3)):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_psnr_of_a_known_error():
    a = np.full((2, 4, 4, 3), 0.5)
    assert psnr(a, a + 0.1) == pytest.approx(20.0)
    assert psnr(torch.from_numpy(a).requires_grad_(), a + 0.01) == pytest.approx(40.0)
    assert psnr(a, a) == math.inf


def test_ssim_of_equal_inverted_and_constant_images():
    a = pictures(0)
    assert ssim(a, a) == pytest.approx(1.0)
    assert ssim(torch.from_numpy(a), 1 - a) < -0.5
    # without variance only the brightness term (2 m n + c) / (m^2 + n^2 + c), c = 0.01^2, is left
    dark, light = np.full((8, 8, 3), 0.2), np.full((8, 8, 3), 0.6)
    assert ssim(dark, light) == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4))


def test_ssim_of_a_batch_is_the_mean():
    a, b = pictures(1), pictures(2)
    b[0] = a[0]
    assert ssim(a, b) == pytest.approx((1 + ssim(a[1], b[1])) / 2)


def test_ssim_counts_no_window_with_a_pixel_that_is_not_shown():
    a, b, shown = pictures(1), pictures(2), np.ones((2, 16, 24), bool)
    assert ssim(a, b, shown) == pytest.approx(ssim(a, b))
    shown[:, :, 12:], a[:, :, 12:] = False, b[:, :, 12:]  # what is hidden would look alike
    left = ssim(a[:, :, :12], b[:, :, :12])
    assert ssim(a, b, shown) == pytest.approx(left) and ssim(a, b) > left + 0.2
    shown[1, :, 5] = False
    assert ssim(a, b, torch.from_numpy(shown)) == pytest.approx(ssim(a[0, :, :12], b[0, :, :12]))
    assert ssim(a[0], b[0], shown[0]) == pytest.approx(ssim(a, b, shown)) and math.isnan(ssim(a[1], b[1], shown[1]))


def test_silhouettes():
    a, b = np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 1))
    assert silhouette_iou(a, b) == 1
    a[0, :2], b[0, 1:3] = 0.6, 0.9  # rows 0, 1 and rows 1, 2
    assert silhouette_iou(a, torch.from_numpy(b)) == pytest.approx(1 / 3)
    assert silhouette_iou(a, b, threshold=0.7) == 0


def test_saturation_and_contrast_are_of_the_object_without_its_background():
    rgb, opacity = np.zeros((1, 2, 4, 3)), np.zeros((1, 2, 4, 1))
    rgb[...] = background = (0.2, 0.9, 0.4)  # not counted: saturation 0.7
    rgb[0, 0, 0], opacity[0, 0, 0] = (0.9, 0.3, 0.1), 1.0
    rgb[0, 0, 1], opacity[0, 0, 1] = 0.6 * np.array([0.6, 0.6, 0.5]) + 0.4 * np.array(background), 0.6
    opacity[0, 1, 0] = 0.4  # more background than object: not counted
    assert saturation(rgb, opacity, background) == pytest.approx((0.8 + 0.1) / 2)
    assert contrast(torch.from_numpy(rgb), torch.from_numpy(opacity), background) == pytest.approx(
        abs(1.3 - 1.7) / 3 / 2
    )
    assert saturation(rgb, 0 * opacity) == contrast(rgb, 0 * opacity) == 0


@pytest.mark.parametrize("metric", [psnr, ssim, silhouette_iou])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match=r"\(2, 16, 24, 3\) and \(1, 16, 24, 3\)"):
        metric(pictures(0), pictures(0)[:1])
