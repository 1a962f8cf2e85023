"""`benchmarks/carry_over.py`: what an earlier video model learned, on a deeper network with more words."""

import pytest
import torch

from threedgen.diffusion.mini import new_mini_prior, new_mini_vae
from threedgen.diffusion.networks.deepening import deepened_tensors, layers_of


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("carry_over")


def test_layers_lie_where_a_deeper_network_has_them(benchmark):
    unet = new_mini_prior(["a red cat"], new_mini_vae()).unet
    old = layers_of(unet)
    layers = [old[0] + 2, *(count + 1 for count in old[1:])]
    more = [new - had for new, had in zip(layers, old, strict=True)][::-1]
    assert [benchmark._moved(name, more) for name in unet.state_dict()] == list(deepened_tensors(unet, layers))
    assert benchmark._moved("up_blocks.0.temp_convs.1.conv1.weight", more).startswith(
        f"up_blocks.0.temp_convs.{1 + more[0]}."
    )


def test_what_was_learned_is_added_in_part_and_what_is_new_is_taken_as_it_is(benchmark):
    image = {"a": torch.tensor([1.0, 2.0]), "words": torch.zeros(2)}
    video = {"a": torch.tensor([3.0, 2.0]), "words": torch.ones(2), "frames": torch.tensor([7.0])}
    today = {"a": torch.tensor([10.0, 20.0]), "words": torch.full((3,), 5.0), "frames": torch.zeros(1)}
    benchmark.carry(today, video, image, 0.5)
    assert today["a"].tolist() == [11.0, 20.0] and today["frames"].tolist() == [7.0]
    assert today["words"].tolist() == [5.5, 5.5, 5.0]  # the third came later
