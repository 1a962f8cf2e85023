"""What a forward pass of the mini network costs with each kind of attention between its views, one thread.

    .venv/bin/python benchmarks/view_attention.py                    one object, with and without its text
    .venv/bin/python benchmarks/view_attention.py --repeats 50

The kinds take turns, so that whatever else the machine does meets all of them. Milliseconds are of processor time, the
least and the median of the repeats; ratios are the median of the turns' own ratios to inflated attention. What the
cameras say (rays, lines, points) is computed in each pass, as in sampling.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from threedgen.cameras import orbit  # noqa: E402
from threedgen.config.training import ViewAttention  # noqa: E402
from threedgen.diffusion.conditions import Conditions  # noqa: E402
from threedgen.diffusion.start import start_prior  # noqa: E402

WARMUP = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure(given.repeats)
    print(f"{'':10}  least ms  median ms  times inflated")
    for kind, times in seconds.items():
        ratio = median(t / base for t, base in zip(times, seconds[ViewAttention.inflated], strict=True))
        print(f"{kind.value:10}{1e3 * min(times):10.1f}{1e3 * median(times):11.1f}{ratio:16.2f}")
    return 0


@torch.no_grad()
def measure(repeats: int) -> dict[ViewAttention, list[float]]:
    priors = {kind: start_prior("mini", kind) for kind in ViewAttention}
    prior = priors[ViewAttention.inflated]
    cameras = orbit([0, 90, 180, 270], 15, 2.7, 40, prior.image_size, num_views=4)
    told = Conditions(prior.encode_text(["a red cat", ""]), cameras, 4)
    size = prior.unet.config.sample_size
    latents = torch.randn(8, 4, size, size, generator=torch.Generator().manual_seed(0))
    seconds: dict[ViewAttention, list[float]] = {kind: [] for kind in priors}
    for turn in range(WARMUP + repeats):
        for kind, each in priors.items():
            start = time.process_time()
            each.denoise(latents, torch.tensor(500), told)
            if turn >= WARMUP:
                seconds[kind].append(time.process_time() - start)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
