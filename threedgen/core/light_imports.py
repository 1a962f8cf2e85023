"""Quick imports, where the process is our own: diffusers without what our networks never use, and no collections.

diffusers imports whatever it can work with and finds installed: peft, accelerate, all of transformers' machinery for
training, scipy.stats, torch.compile's front end. That is three of five seconds, for a UNet and a VAE. A program that
imports threedgen may want all of it, so there nothing is changed. The command line owns its process and says so.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from threedgen.core import ahead

# diffusers does without these where it does not find them; others, ourselves included, import them later
UNNEEDED = ("accelerate", "peft", "scipy", "transformers")
# where diffusers asks what is installed, and what of it we use
_FLAGS = "diffusers.utils.import_utils"
_CLASSES = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.unets.unet_3d_blocks",
    "diffusers.models.unets.unet_i2vgen_xl",
    "diffusers.schedulers.scheduling_ddim",
)
_COMPILER = "torch._dynamo"
_owned = False


def own_process() -> None:
    """Say that this process is this package's alone."""
    global _owned
    _owned = True


@contextmanager
def imports() -> Iterator[None]:
    """While it lasts, a process of our own does not look for garbage, of which an import makes little and through
    which it would look again and again; what has been imported then never is: it stays to the end."""
    if not _owned:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_diffusers() -> None:
    """Import of diffusers what the networks are made of, and no more, if the process was said to be our own.

    Imports what is here already not again; a version of diffusers that cannot do without is left to be imported whole.
    """
    if not _owned or "diffusers" in sys.modules:
        return
    try:
        with compiler_aside(), absent(*UNNEEDED):
            for name in (_FLAGS, *_CLASSES):
                importlib.import_module(name)
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
            del sys.modules[name]


def compile_kernels() -> None:
    """Begin to compile the CPU's kernels, if neither the package nor the cache has them, while the imports go on.

    The file that compiles them is read by its path, as setup.py does: its package imports torch.
    """
    folder = Path(__file__).parents[1] / "ops" / "native"
    if not _owned or any(folder.glob("libthreedgen-*.so")):
        return

    def compile_them() -> None:
        spec = importlib.util.spec_from_file_location("threedgen_build", folder / "build.py")
        assert spec is not None and spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        with suppress(build.BuildError):  # who needs the kernels tries again and tells why there are none
            build.cached_cpu_library()

    ahead.begin(ahead.KERNELS, compile_them)


@contextmanager
def absent(*packages: str) -> Iterator[None]:
    """These packages are not installed, as far as an import can tell; those imported before stay."""
    hidden = [name for name in packages if name not in sys.modules]
    none: Any = None  # Python's own word for a module that is not to be found
    sys.modules.update(dict.fromkeys(hidden, none))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def compiler_aside() -> Iterator[None]:
    """Functions that are marked for torch.compile as they are defined stay as they are: nothing is compiled here."""
    if _COMPILER in sys.modules:
        yield
        return
    import torch

    stand_in: Any = ModuleType(_COMPILER)
    stand_in.allow_in_graph, stand_in.disable = _as_it_is, _as_it_is
    sys.modules[_COMPILER] = torch._dynamo = stand_in
    try:
        yield
    finally:
        del sys.modules[_COMPILER], torch._dynamo


def _as_it_is(marked: Callable[..., Any] | None = None, *options: object, **named: object) -> Callable[..., Any]:
    """As a decorator, with options or without: what it is put on, unchanged."""
    return _as_it_is if marked is None else marked
