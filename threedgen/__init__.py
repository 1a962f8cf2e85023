"""threedgen: text to 3D. Start reading at `launch.py`, then `threedgen/cli.py`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threedgen.diffusion.pipeline import MultiViewPipeline

__version__ = "0.1.0"
__all__ = ["MultiViewPipeline"]


def __getattr__(name: str) -> Any:
    """`from threedgen import MultiViewPipeline` imports torch then, not when threedgen is imported."""
    if name == "MultiViewPipeline":
        from threedgen.diffusion.pipeline import MultiViewPipeline

        return MultiViewPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
