"""Vectors of 512 bits against those of 256: the same field, forward and backward, to the last bits of a sum."""

import ctypes

import pytest
import torch

from tests.ops.native_field.test_render import arriving, some_rays
from threedgen.ops import native
from threedgen.ops.native import build, library

# numbers of columns that leave nothing over, a vector of 16, one of 8, and both
SHAPES = [(4, 8, (32,)), (2, 8, (16, 48)), (3, 8, (40, 24)), (7, 8, (56,)), (1, 3, (8,)), (2, 2, ())]


@pytest.fixture(scope="module")
def narrow():
    if not library._runs_here("x86-64-v4"):
        pytest.skip("this processor has no vectors of 512 bits")
    try:
        return ctypes.CDLL(str(build.cached_cpu_library("x86-64-v3")))
    except build.BuildError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("shape", SHAPES)
def test_wide_and_narrow_agree(shape, narrow, make_field, monkeypatch, assert_near):
    field = make_field(*shape)
    origins, directions, samples = some_rays(field, 400)
    positions = field.points(1000)
    at_rays, at_points = arriving(samples, 400), [torch.randn(1000), torch.randn(1000, 3), torch.randn(1000, 3)]

    def everything():
        seen = native.render_field(*field.arguments, origins, directions, samples)
        points = native.field_with_normals(*field.arguments, positions)
        return [*seen, *points, *field.gradients(seen, at_rays), *field.gradients(points, at_points)]

    wide = everything()
    monkeypatch.setattr(library, "_load", lambda: (narrow, ""))
    assert_near(wide, [x.double() for x in everything()], 1e-5)


def test_levels_are_for_the_processors_that_have_them(monkeypatch):
    flags = "avx2 fma f16c bmi2 avx512f avx512bw avx512cd avx512dq avx512vl"
    for model, runs in (
        (flags, [True] * 3),
        (flags.replace(" avx512vl", ""), [False, True, True]),
        ("sse2", [0, 0, 1]),
    ):
        monkeypatch.setattr(build, "_cpu_model", lambda model=model: f"flags : {model}")
        assert [library._runs_here(f"x86-64-v{n}") for n in (4, 3, 2)] == runs
