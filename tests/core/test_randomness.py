"""Randomness is a function of (seed, step, stream), the same in every process."""

import subprocess
import sys

import torch

from threedgen.core.randomness import generator, seeded, stable_seed


def test_known_values_never_change():
    # computed once with `b2sum -l 64` on the text "seed/step/stream": bytes little-endian, halved
    assert stable_seed(0, 0, "camera") == int.from_bytes(bytes.fromhex(B2SUM_0_0_CAMERA), "little") // 2


B2SUM_0_0_CAMERA = "3e5b996d8f195863"


def test_every_argument_counts_and_seeds_fit_63_bits():
    seeds = [stable_seed(s, n, name) for s in range(5) for n in range(50) for name in ("camera", "noise", "1/camera")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # all 63 bits are used


def test_arguments_do_not_run_into_each_other():
    assert stable_seed(1, 11, "a") != stable_seed(11, 1, "a")


def test_the_same_in_another_process():
    code = "from threedgen.core.randomness import stable_seed; print(stable_seed(7, 123, 'occupancy'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == stable_seed(7, 123, "occupancy")


def test_generator_repeats_its_stream():
    first = torch.rand(8, generator=generator(3, 14, "camera"))
    again = torch.rand(8, generator=generator(3, 14, "camera"))
    other = torch.rand(8, generator=generator(3, 15, "camera"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_any_seed_that_a_config_may_have_seeds_torch_and_leaves_it_as_it_was():
    def drawn(seed):
        with seeded(seed):
            return torch.rand(3).tolist()

    before = torch.get_rng_state()
    for seed in (0, 7, -1, 2**64 - 1):
        torch.manual_seed(seed)
        assert drawn(seed) == torch.rand(3).tolist()
    assert drawn(123456789012345678901) != drawn(0)
    torch.set_rng_state(before)
    drawn(5)
    assert torch.equal(torch.get_rng_state(), before)
