"""The memory that VideoMV takes on a GPU, counted without one: networks on the meta device, tensors alive at once.

    python benchmarks/video_memory.py                     half precision, guidance's two answers at once
    python benchmarks/video_memory.py --dtype float32 --objects 1

Each network is run on tensors without numbers at its full size; whatever an operation allocates counts from then on
until nothing refers to it. Attention counts as the fused kernels do it, without its matrix. The workspace of cuDNN,
torch's caching and the driver's own (half a GiB) come on top.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from threedgen.diffusion.formats.text_towers import new_text_encoder
from threedgen.diffusion.networks.lgm_unet import PRESETS, LGMUNet
from threedgen.diffusion.networks.video_unet import VideoUNet
from threedgen.diffusion.text.encoder import TextConfig

GIB = 2**30
FRAMES, WIDTH = 24, 1024


class Counting(TorchDispatchMode):
    """Counts the bytes of storages that are alive, from those made within on."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._known |= {storage._cdata for storage in _storages((args, kwargs))}  # a weight, of which this is a view
        for storage in _storages(result):
            self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class FusedAttention(TorchFunctionMode):
    """Attention as the fused kernels do it, where no gradient is asked for: nothing is made but its result."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention and not torch.is_grad_enabled():
            return _attended(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    fused = torch.ops.aten._scaled_dot_product_efficient_attention
    return fused(query, key, value, attn_mask, False, dropout_p, is_causal)[0]


def networks(image_conditioning: bool) -> dict[str, nn.Module]:
    """VideoMV's, whole, on the meta device: Stable Diffusion 2.1's text encoder and VAE, OpenCLIP's image encoder."""
    sd = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 16}
    parts = {
        "video UNet": VideoUNet(image_conditioning=image_conditioning),
        "text encoder": new_text_encoder(TextConfig(vocab_size=49408, num_hidden_layers=23, **sd)),
        "VAE": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        ),
        "LGM": LGMUNet(**PRESETS["big"]),  # type: ignore[arg-type]
    }
    if image_conditioning:
        tower = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 32}
        parts["image encoder"] = CLIPVisionModelWithProjection(
            CLIPVisionConfig(image_size=224, patch_size=14, projection_dim=WIDTH, **tower)
        )
    return parts


def peak(run: Callable[[], Any]) -> int:
    """Bytes that `run` has alive at most beyond those that it is given."""
    with torch.no_grad(), FusedAttention(), Counting() as counting:
        run()
    return counting.peak


def count(dtype: torch.dtype, objects: int, image_conditioning: bool) -> dict[str, dict[str, int]]:
    """ "weights" of each network and "activations" of each stage, in bytes; objects: as many videos at once."""
    with torch.device("meta"):
        parts = {name: nn.Module.to(part, dtype).eval() for name, part in networks(image_conditioning).items()}
        unet, vae, lgm = parts["video UNet"], parts["VAE"], parts["LGM"]

        def given(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype)

        shown = {"image_embedding": given(objects, WIDTH), "local_image": given(objects, 4, 1, 32, 32)}
        shown["fps"] = torch.empty(objects, dtype=torch.int64)
        inputs = given(objects, 4, FRAMES, 32, 32), torch.empty(objects), given(objects, 77, WIDTH)
        stages = {
            "one answer of the video UNet": lambda: unet(
                *inputs, given(objects, FRAMES, 16), **(shown if image_conditioning else {})
            ),
            "VAE: 24 views decoded at once": lambda: vae.decode(given(FRAMES, 4, 32, 32)),
            "VAE: 24 views encoded at once": lambda: vae.encode(given(FRAMES, 3, 256, 256)),
            "LGM: four views to 65,536 Gaussians": lambda: lgm(given(1, 4, 9, 256, 256)),
        }
        return {
            "weights": {
                name: sum(p.numel() for p in part.parameters()) * dtype.itemsize for name, part in parts.items()
            },
            "activations": {name: peak(run) for name, run in stages.items()},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--objects", type=int, default=2, help="videos at once: guidance asks for two (default)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for title, image_conditioning in (("text to video", False), ("image to video", True)):
        counted = count(getattr(torch, given.dtype), given.objects, image_conditioning)
        print(f"{title}, {given.dtype}")
        for kind, sizes in counted.items():
            for name, size in sizes.items():
                print(f"  {kind:12} {name:38} {size / GIB:6.2f} GiB")
        weights, activations = counted["weights"], counted["activations"]
        total = sum(weights.values()) + max(activations.values())
        print(f"  {'all weights, and the largest stage':51} {total / GIB:6.2f} GiB\n")


if __name__ == "__main__":
    main()
