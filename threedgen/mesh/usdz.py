"""A mesh as one .usdz, which phones show in a room: USD's crate with its texture, y up, the front along +z, metres."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from threedgen.core.errors import ConfigError
from threedgen.core.files import write_bytes_atomically
from threedgen.mesh.gltf import to_linear, to_y_up
from threedgen.mesh.types import ColoredMesh, Mesh, TexturedMesh

_UV, _COLOR = "st", "displayColor"  # primvars that viewers know by these names


def require_usd() -> None:
    """Raises ConfigError where the library that writes USD is missing."""
    try:
        import pxr.Usd  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "export.formats: usdz needs Pixar's USD: pip install 'threedgen[usdz]' (or pip install usd-core)"
        ) from error


def write_usdz(mesh: Mesh, path: str | Path) -> None:
    """Geometry, normals and a matt UsdPreviewSurface: with the texture, or with the vertices' colours.

    Raises ConfigError as `require_usd` does.
    """
    require_usd()
    from pxr import Sdf, UsdUtils

    with tempfile.TemporaryDirectory() as folder:
        layer, package = Path(folder) / "asset.usdc", Path(folder) / "asset.usdz"
        _write_layer(mesh, layer)
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(layer)), str(package)):
            raise OSError(f"{path}: USD could not pack the asset")
        write_bytes_atomically(path, package.read_bytes())


def _write_layer(mesh: Mesh, path: Path) -> None:
    """`path` (.usdc), and beside it the texture, if there is one, as asset.png."""
    from pxr import Kind, Sdf, Usd, UsdGeom, UsdShade, Vt

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, "/asset")
    stage.SetDefaultPrim(root.GetPrim())
    Usd.ModelAPI(root).SetKind(Kind.Tokens.component)

    vertices = to_y_up(mesh.vertices).astype("f4")
    shape = UsdGeom.Mesh.Define(stage, "/asset/mesh")
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(vertices))
    shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(vertices[[0, 0]]))
    shape.GetExtentAttr().Set(UsdGeom.Mesh.ComputeExtent(shape.GetPointsAttr().Get()))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray(len(mesh.faces), 3))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.reshape(-1).astype("i4")))
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(to_y_up(mesh.normals).astype("f4")))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)

    material = UsdShade.Material.Define(stage, "/asset/material")
    surface = _shader(stage, "surface", "UsdPreviewSurface", roughness=1.0, metallic=0.0)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    types, primvars = Sdf.ValueTypeNames, UsdGeom.PrimvarsAPI(shape)
    match mesh:
        case TexturedMesh():
            path.with_name("asset.png").write_bytes(mesh.png)
            uvs = primvars.CreatePrimvar(_UV, types.TexCoord2fArray, UsdGeom.Tokens.vertex)
            uvs.Set(Vt.Vec2fArray.FromNumpy(mesh.uvs.astype("f4")))
            color = _shader(stage, "texture", "UsdUVTexture", sourceColorSpace="sRGB", wrapS="clamp", wrapT="clamp")
            color.CreateInput("file", types.Asset).Set(Sdf.AssetPath("./asset.png"))  # beside the layer
            reader = _shader(stage, "uv", "UsdPrimvarReader_float2", varname=_UV)
            reader.CreateOutput("result", types.Float2)
            color.CreateInput("st", types.Float2).ConnectToSource(reader.ConnectableAPI(), "result")
            output = color.CreateOutput("rgb", types.Float3)
        case ColoredMesh():
            colors = primvars.CreatePrimvar(_COLOR, types.Color3fArray, UsdGeom.Tokens.vertex)
            colors.Set(Vt.Vec3fArray.FromNumpy(to_linear(mesh.colors / 255.0).astype("f4")))
            color = _shader(stage, "colors", "UsdPrimvarReader_float3", varname=_COLOR)
            output = color.CreateOutput("result", types.Float3)
    surface.CreateInput("diffuseColor", types.Color3f).ConnectToSource(output)
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
    stage.GetRootLayer().Save()


def _shader(stage: Any, name: str, kind: str, **inputs: float | str) -> Any:
    """A shader of USD's own kinds, with inputs that are numbers or words."""
    from pxr import Sdf, UsdShade

    shader = UsdShade.Shader.Define(stage, f"/asset/material/{name}")
    shader.CreateIdAttr(kind)
    for key, value in inputs.items():
        word = Sdf.ValueTypeNames.String if key == "varname" else Sdf.ValueTypeNames.Token
        shader.CreateInput(key, Sdf.ValueTypeNames.Float if isinstance(value, float) else word).Set(value)
    return shader
