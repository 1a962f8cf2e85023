"""Muon against torch's own (which takes matrices only), and what it leaves to AdamW."""

import copy

import pytest
import torch
from torch import nn

from threedgen.runs.checkpoint import flatten_optimizer_state, restore_optimizer_state
from threedgen.training.muon import Muon, orthogonal

RATES = {"lr": 0.02, "betas": (0.9, 0.99), "weight_decay": 0.1}


def draw_gradients(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def walk(network, optimizer, steps):
    for step in range(steps):
        draw_gradients(network, step)
        optimizer.step()


def test_matrices_move_as_torch_s_own_muon_moves_them():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(24, 40, bias=False), nn.Linear(40, 24, bias=False), nn.Linear(24, 24, bias=False))
    start, theirs = copy.deepcopy(ours), copy.deepcopy(ours)
    reference = torch.optim.Muon(theirs.parameters(), 0.02, 0.1, 0.95, adjust_lr_fn="match_rms_adamw")
    walk(ours, Muon(ours.named_parameters(), **RATES), 5)
    walk(theirs, reference, 5)
    for mine, other, was in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert (mine - other).norm() < 0.03 * (other - was).norm()  # products in bfloat16, in another order


def test_a_convolution_is_the_matrix_of_its_flattened_kernels():
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(16, 32, 3, bias=False), nn.Linear(16 * 9, 32, bias=False)
    linear.weight.data = convolution.weight.data.flatten(1).clone()
    for network in (convolution, linear):
        walk(network, Muon(network.named_parameters(), **RATES), 3)
    assert torch.equal(convolution.weight.flatten(1), linear.weight)


def test_vectors_embeddings_and_the_ends_of_a_network_move_as_adamw_moves_them():
    torch.manual_seed(0)
    parts = {"conv_in": nn.Conv2d(4, 32, 3), "norm": nn.LayerNorm(32), "embedding": nn.Embedding(20, 32)}
    ours = nn.ModuleDict(parts | {"narrow": nn.Linear(8, 64), "conv_out": nn.Conv2d(32, 16, 3)})
    theirs = copy.deepcopy(ours)
    walk(ours, Muon(ours.named_parameters(), **RATES), 3)
    walk(theirs, torch.optim.AdamW(theirs.parameters(), **RATES), 3)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize("shape", [(16, 16), (16, 50), (64, 577)])
def test_singular_values_come_near_to_one_and_directions_stay(shape, hardware, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": hardware})
    matrix = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = u.mT @ orthogonal(matrix) @ vh.mT
    on = values > 0.02 * values[:, :1]  # the iteration lifts smaller ones too, but not all the way
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    assert (diagonal[on] - 1).abs().max() < 0.45  # about 1, by its design
    assert (found - torch.diag_embed(diagonal)).abs().max() < 0.1
    rounds = torch.equal(orthogonal(matrix), orthogonal(matrix).bfloat16().float())
    assert rounds == hardware  # products of bfloat16 only where they are quick


def test_what_has_no_gradient_stays_and_a_saved_state_goes_on():
    torch.manual_seed(0)
    network = nn.ModuleDict({"used": nn.Linear(32, 32), "unused": nn.Linear(32, 32)})
    before = network["unused"].weight.clone()

    def step(network, optimizer, number):
        draw_gradients(network, number)
        network["unused"].zero_grad()
        optimizer.step()

    optimizer = Muon(network.named_parameters(), **RATES)
    step(network, optimizer, 0)
    assert torch.equal(network["unused"].weight, before)
    again = copy.deepcopy(network)
    resumed = Muon(again.named_parameters(), **RATES)
    restore_optimizer_state(resumed, {name: t.clone() for name, t in flatten_optimizer_state(optimizer).items()})
    for number in (1, 2):
        step(network, optimizer, number)
        step(again, resumed, number)
    for mine, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other)
