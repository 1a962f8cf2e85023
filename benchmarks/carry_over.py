"""A start for a video model's training: today's image prior, plus what an earlier video model had learned over its own.

    git worktree add ../before e76f833   # whose mini-video began from an earlier `mini`
    git worktree add ../first 2947662    # that `mini`
    .venv/bin/python benchmarks/carry_over.py --video ../before/threedgen/diffusion/weights/mini-video \\
        --image ../first/threedgen/diffusion/weights/mini --to outputs/carried
    .venv/bin/python launch.py --config train-video-mini.yaml train.start_from=outputs/carried

Tensors that only the video network has are those of the earlier video model. Of all others, and of the text encoder's,
it is today's + share * (the earlier video model's - those that it began from) (task arithmetic, Ilharco et al. 2023):
all descend from one network, and what was learned apart mostly adds up. Where today's network has more layers, the
earlier ones lie where `train.layers_per_block` puts them. It prints the loss of held-out captions of the earlier video
model, of the image prior without anything carried over, and of the start.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from video_starts import Validation  # noqa: E402  # beside this file

from threedgen.config.load import load_config  # noqa: E402
from threedgen.config.training import PriorNetwork  # noqa: E402
from threedgen.diffusion.networks.deepening import layers_of  # noqa: E402
from threedgen.diffusion.prior import MultiViewPrior  # noqa: E402
from threedgen.diffusion.start import start_prior  # noqa: E402

_UP_LAYER = re.compile(r"up_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", required=True, help="weights of the earlier video model")
    parser.add_argument("--image", required=True, help="those that it began from")
    parser.add_argument("--today", default="mini", help="weights of today's image prior")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--held-out", type=int, default=12, help="captions of the loss that is printed")
    parser.add_argument("--to", type=Path, required=True, help="a folder that is not there yet")
    given = parser.parse_args()
    if given.to.exists():
        parser.error(f"--to {given.to} is there already")
    video, image = MultiViewPrior.from_pretrained(given.video), MultiViewPrior.from_pretrained(given.image)
    today, started = MultiViewPrior.from_pretrained(given.today), start_prior(given.today, network=PriorNetwork.video)
    loss = Validation(load_config("train-video-mini.yaml"), given.held_out)
    print(f"{given.video}: {loss(video):.4f}, {given.today}: {loss(started):.4f}", flush=True)
    more = [new - old for new, old in zip(layers_of(today.unet), layers_of(image.unet), strict=True)][::-1]
    carry(started.unet.state_dict(), video.unet.state_dict(), image.unet.state_dict(), given.share, more)
    texts = (prior.text_encoder.state_dict() for prior in (started, video, image))
    carry(*texts, given.share)
    print(f"{given.share:g} carried over: {loss(started):.4f}")
    started.save_pretrained(given.to, base=given.today)
    return 0


@torch.no_grad()
def carry(
    tensors: dict[str, Tensor],
    video: dict[str, Tensor],
    image: dict[str, Tensor],
    share: float,
    more: Sequence[int] = (),
) -> None:
    """Change `tensors` in place. more: layers that each level on the way up has more than before, the deepest first."""
    for name, learned in video.items():
        own = tensors[_moved(name, more)]
        if name in image:
            own[: len(learned)] += share * (learned - image[name])  # words that came later stay as they are
        else:
            own.copy_(learned)


def _moved(name: str, more: Sequence[int]) -> str:
    """What the layer is called in the deeper network; see `deepening.deepened_tensors`."""
    found = _UP_LAYER.fullmatch(name)
    if not found or found[3] == "0" or not more:
        return name
    block = int(found[1])
    return f"up_blocks.{block}.{found[2]}.{int(found[3]) + more[block]}.{found[4]}"


if __name__ == "__main__":
    sys.exit(main())
