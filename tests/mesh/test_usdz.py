"""USDZ, read back by USD itself: a mesh in metres, y up, its texture to the byte, and nothing that validators find."""

import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from threedgen.core.errors import ConfigError
from threedgen.mesh import ColoredMesh, TexturedMesh, require_usd, write_usdz

TETRAHEDRON = np.array([[0.5, 0.1, -0.2], [-0.3, 0.6, 0.0], [-0.3, -0.4, 0.1], [0.0, 0.0, 0.7]], np.float32)
FACES = np.array([[0, 1, 3], [1, 2, 3], [2, 0, 3], [0, 2, 1]])
NORMALS = TETRAHEDRON / np.linalg.norm(TETRAHEDRON, axis=1, keepdims=True)


@pytest.fixture
def textured():
    uvs = np.array([[0.0, 0.0], [1.0, 0.25], [0.5, 1.0], [0.125, 0.75]], np.float32)
    texture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    return TexturedMesh(TETRAHEDRON, FACES, NORMALS, uvs, texture)


def opened(mesh, path):
    """The stage of the file that `write_usdz` makes of a mesh, and its only mesh."""
    usd = pytest.importorskip("pxr.Usd", reason="USD (usd-core) is not here")
    from pxr import UsdGeom

    write_usdz(mesh, path)
    stage = usd.Stage.Open(str(path))
    (found,) = (UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh))
    return stage, found


def test_the_mesh_comes_back_in_metres_and_y_up(textured, tmp_path):
    stage, found = opened(textured, tmp_path / "ünï.usdz")
    from pxr import UsdGeom

    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert stage.GetDefaultPrim().GetPath() == "/asset"
    points = np.array(found.GetPointsAttr().Get())
    # world: x to the front, y to the left, z up; there: x to the left, y up, z to the front
    assert np.array_equal(points, np.stack([TETRAHEDRON[:, 1], TETRAHEDRON[:, 2], TETRAHEDRON[:, 0]], 1))
    assert np.array_equal(np.array(found.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3), FACES)
    assert np.array_equal(np.array(found.GetExtentAttr().Get()), [points.min(0), points.max(0)])
    assert found.GetSubdivisionSchemeAttr().Get() == "none"  # or viewers would round it
    normals = np.array(found.GetNormalsAttr().Get())
    assert np.allclose(normals, points / np.linalg.norm(points, axis=1, keepdims=True))
    st = UsdGeom.PrimvarsAPI(found).GetPrimvar("st")
    assert np.array_equal(np.array(st.Get()), textured.uvs) and st.GetInterpolation() == "vertex"


def test_its_material_shows_the_texture(textured, tmp_path):
    _stage, found = opened(textured, tmp_path / "asset.usdz")
    from pxr import UsdShade

    material, _ = UsdShade.MaterialBindingAPI(found).ComputeBoundMaterial()
    surface = material.ComputeSurfaceSource()[0]
    assert surface.GetIdAttr().Get() == "UsdPreviewSurface"
    assert (surface.GetInput("roughness").Get(), surface.GetInput("metallic").Get()) == (1.0, 0.0)
    color = UsdShade.Shader(surface.GetInput("diffuseColor").GetConnectedSources()[0][0].source)
    reader = UsdShade.Shader(color.GetInput("st").GetConnectedSources()[0][0].source)
    assert color.GetInput("sourceColorSpace").Get() == "sRGB" and reader.GetInput("varname").Get() == "st"
    inside = color.GetInput("file").Get().resolvedPath
    assert inside == f"{tmp_path / 'asset.usdz'}[asset.png]"
    with zipfile.ZipFile(tmp_path / "asset.usdz") as package:
        assert [entry.compress_type for entry in package.infolist()] == [zipfile.ZIP_STORED] * 2
        assert [entry.filename for entry in package.infolist()] == ["asset.usdc", "asset.png"]
        with package.open("asset.png") as picture:
            assert np.array_equal(np.asarray(Image.open(picture)), textured.texture)


def test_colours_of_vertices_are_linear_light(tmp_path):
    colors = np.array([[0, 255, 188], [10, 20, 30], [0, 0, 0], [255, 255, 255]], np.uint8)
    _stage, found = opened(ColoredMesh(TETRAHEDRON, FACES, NORMALS, colors), tmp_path / "asset.usdz")
    primvar = found.GetDisplayColorPrimvar()
    linear = np.array(primvar.Get())
    assert primvar.GetInterpolation() == "vertex"
    assert np.allclose(linear[0], [0.0, 1.0, 0.5029], atol=1e-4)  # IEC 61966-2-1: ((188/255 + 0.055) / 1.055)^2.4
    with zipfile.ZipFile(tmp_path / "asset.usdz") as package:
        assert package.namelist() == ["asset.usdc"]


@pytest.mark.parametrize("kind", ["texture", "colours"])
def test_usd_s_validators_find_nothing(textured, tmp_path, kind):
    colored = ColoredMesh(TETRAHEDRON, FACES, NORMALS, np.zeros((4, 3), np.uint8))
    stage, _ = opened(textured if kind == "texture" else colored, tmp_path / "asset.usdz")
    validation = pytest.importorskip("pxr.UsdValidation")
    validators = validation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    errors = validation.ValidationContext(validators).Validate(stage)
    assert [error.GetErrorAsString() for error in errors] == []


def test_without_usd_it_is_one_line(textured, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pxr", None)
    for call in (require_usd, lambda: write_usdz(textured, tmp_path / "asset.usdz")):
        with pytest.raises(ConfigError, match=r"pip install 'threedgen\[usdz\]' \(or pip install usd-core\)$"):
            call()
    assert not list(tmp_path.iterdir())
