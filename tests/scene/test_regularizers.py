import math

import pytest
import torch

from threedgen.scene import regularizers
from threedgen.scene.output import RenderOutput


def output_of(opacity):
    opacity = torch.tensor(opacity).view(1, 1, -1, 1)
    return RenderOutput(rgb=opacity.expand(-1, -1, -1, 3), opacity=opacity, depth=opacity)


def test_sparsity():
    assert regularizers.sparsity(output_of([0.0])).item() == pytest.approx(0.1)
    expected = (math.sqrt(0.25 + 0.01) + math.sqrt(1.01)) / 2
    assert regularizers.sparsity(output_of([0.5, 1.0])).item() == pytest.approx(expected)


def test_opaque():
    assert regularizers.opaque(output_of([0.5])).item() == pytest.approx(math.log(2))
    expected = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert regularizers.opaque(output_of([0.2])).item() == pytest.approx(expected, rel=1e-5)
    assert regularizers.opaque(output_of([0.0, 1.0])).item() < 0.01


def test_opaque_pushes_fog_apart_and_is_finite_at_the_ends():
    opacity = torch.tensor([0.0, 0.4, 0.6, 1.0], requires_grad=True)
    regularizers.opaque(RenderOutput(opacity, opacity, opacity)).backward()
    assert opacity.grad.isfinite().all()
    assert opacity.grad[1] > 0 > opacity.grad[2]  # descent lowers 0.4 and raises 0.6
