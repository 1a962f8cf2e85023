"""Ranges that the library works with; requirements.txt pins the versions that the tests run with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "threedgen/__init__.py").read_text("utf-8")).group(1)
README = ROOT / "README.md"

setup(
    name="threedgen",
    version=VERSION,
    description="Text to 3D: multi-view diffusion guidance, NeRF, textured mesh",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    # the recipes stand at the top of the repository and are installed inside the package
    packages=[*find_packages(include=["threedgen", "threedgen.*"]), "threedgen.configs"],
    package_dir={"threedgen": "threedgen", "threedgen.configs": "configs"},
    package_data={
        "threedgen": ["**/*.safetensors", "**/*.json", "**/*.txt", "**/*.md"],
        "threedgen.configs": ["*.yaml"],
    },
    install_requires=[
        "torch>=2.2",
        "diffusers>=0.30",
        "transformers>=4.40",
        "safetensors>=0.4",
        "omegaconf>=2.4",
        "PyYAML>=6.0",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-image>=0.22",
        "pillow>=10.0",
        "trimesh>=4.0",
        "embreex>=2.17",
        "PyMCubes>=0.1.4",
        "xatlas>=0.0.9",
        "fast-simplification>=0.1.9",
    ],
    entry_points={"console_scripts": ["threedgen=threedgen.cli:main"]},
)
