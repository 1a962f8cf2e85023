"""Ranges that the library works with; requirements.txt pins the versions that the tests run with.

Run so far: Python 3.11 with torch 2.13 on a CPU, Python 3.12 with torch 2.11 on a GPU.
"""

import importlib.util
import re
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "threedgen/__init__.py").read_text("utf-8")).group(1)
README = ROOT / "README.md"
BROUGHT = ("configs", "custom_prompts", "cuda_ext")  # recipes, prompt files, the kernels' sources


class BuildWithKernels(build_py):
    """Compiles the CPU kernels into the package. Without a compiler the package is whole but slower, and says so."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # compiled at first use, for the very machine
        spec = importlib.util.spec_from_file_location("build_kernels", ROOT / "threedgen/ops/native/build.py")
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            for level in build.LEVELS:
                build.build_cpu_library(level, Path(self.build_lib) / "threedgen/ops/native")
        except build.BuildError as error:
            print(f"note: installed without compiled kernels: {error}", file=sys.stderr)


class AnyPythonWheel(bdist_wheel):
    """Its kernels are loaded through ctypes: a wheel belongs to a platform, and to no version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """Its wheels belong to one platform."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": AnyPythonWheel},
    distclass=PlatformDistribution,
    name="threedgen",
    version=VERSION,
    description="Text to 3D: multi-view diffusion guidance, NeRF, textured mesh",
    license="Apache-2.0",
    license_files=["LICENSE"],
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    # folders of the repository's top that are installed inside the package
    packages=[*find_packages(include=["threedgen", "threedgen.*"]), *(f"threedgen.{name}" for name in BROUGHT)],
    package_dir={"threedgen": "threedgen", **{f"threedgen.{name}": name for name in BROUGHT}},
    package_data={
        "threedgen": [
            *("**/*.safetensors", "**/*.json", "**/*.txt", "**/*.md", "**/*.gz"),
            *("**/*.html", "**/*.js", "**/*.css"),
        ],
        "threedgen.configs": ["*.yaml"],
        "threedgen.custom_prompts": ["*.txt"],
        "threedgen.cuda_ext": ["**/*.h", "**/*.cpp", "**/*.cu", "**/*.cuh"],
    },
    install_requires=[
        "torch>=2.11",
        "diffusers>=0.30",
        "transformers>=5",
        "peft>=0.18",
        "safetensors>=0.8",
        "omegaconf>=2.4",
        "PyYAML>=6.0",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-image>=0.22",
        "pillow>=11.3",  # the first that reads AVIF
        "trimesh>=5.0",
        "embreex>=2.17",
        "PyMCubes>=0.1.4",
        "xatlas>=0.0.9",
        "fast-simplification>=0.1.9",
        "ninja>=1.10",
    ],
    extras_require={
        "app": ["gradio>=6"],
        "colmap": ["pycolmap>=3.12"],  # before it, poses were told in another way
        "eval": ["torchmetrics>=1.6", "matplotlib>=3.8"],
        "heic": ["pillow-heif>=0.16"],
        "ray": ["ray>=2.60"],
        "serve": ["cog>=0.23.1,<0.24"],
        "tensorboard": ["tensorboard>=2.15"],
        "usdz": ["usd-core>=24.11"],
        "viewer": ["viser>=1"],
        "video": ["imageio-ffmpeg>=0.6"],
    },
    entry_points={"console_scripts": ["threedgen=threedgen.cli:main"]},
)
