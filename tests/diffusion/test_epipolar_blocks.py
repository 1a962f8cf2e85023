"""The Epipolar Consistency Block and SPAD's attention: what they compute, and what stays as it was at the start."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.diffusion.test_epipolar import golden_cameras
from tests.diffusion.tiny_unet import CAMERAS, TINY, inputs
from threedgen.cameras import mvdream_camera_vectors, orbit, rays_of
from threedgen.config.training import ViewAttention
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.networks.epipolar import LevelGeometry, RayPoints, ViewGeometry, ray_points, sample_depths
from threedgen.diffusion.networks.epipolar_blocks import (
    EpipolarConsistency,
    EpipolarTransformerBlock,
    RayTransformerBlock,
)
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.start import start_prior

NEW = (ViewAttention.epipolar, ViewAttention.spad)
LINES = LevelGeometry.mask.func


@pytest.fixture(scope="module")
def goldens(goldens_folder):
    return load_file(goldens_folder / "golden_epipolar.safetensors")


def trained(module):
    """As after some training: what starts at zero is not zero any more."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        if parameter.count_nonzero() == 0:
            nn.init.normal_(parameter, std=0.3)
    return module


def block_of(dim=8, heads=2):
    torch.manual_seed(0)
    return trained(EpipolarConsistency(dim, heads)).requires_grad_(False)


@torch.no_grad()
def test_the_block_is_the_reference_s(goldens):
    weights = {key.rpartition(".")[2]: value.float() for key, value in goldens.items() if ".weight." in key}
    block = EpipolarConsistency(8, 2)
    assert block.ray_attn.to_out.weight.count_nonzero() == 0
    names = {"point_in.weight": "pe"}
    for name, number in (("point_attn", 1), ("ray_attn", 2)):
        names |= {f"{name}.to_{layer}.weight": f"{layer[0]}{number}" for layer in ("q", "k", "v", "out")}
    block.load_state_dict({name: weights[key] for name, key in names.items()})
    cameras = golden_cameras(goldens, 8, 8)
    samples = ray_points(cameras, sample_depths(cameras, 5))
    x = goldens["ecb.features"].float().flatten(2).mT
    tokens = block.point_tokens(x, samples, (8, 8))
    expected = goldens["ecb.point_tokens"].float()
    torch.testing.assert_close(tokens[0].view(3, 8, 8, 5, 8), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())
    output = (x + block(x, samples, (8, 8))).mT.unflatten(-1, (8, 8))
    expected = goldens["ecb.output"].float()
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


@torch.no_grad()
def test_a_pixel_that_attends_to_the_true_depth_is_given_what_the_other_view_shows_there():
    """Two views of a plane at known depths; queries and keys at zero weigh all views that see the point alike."""
    cameras = orbit([0, 25], 10, 3, 40, 16, num_views=2)
    block = block_of(4, 1)
    for layer in (block.point_attn.to_q, block.ray_attn.to_q):
        layer.weight.zero_()
    for layer in (block.point_attn, block.ray_attn):
        layer.to_v.weight.copy_(torch.eye(4))
        layer.to_out.weight.copy_(torch.eye(4))
    positions, directions = cameras.camera_to_world[:, :3, 3], rays_of(cameras).directions.view(2, -1, 3)
    to_plane = -positions[:, None, 0] / directions[..., 0]  # the plane x = 0, through the origin
    samples = ray_points(cameras, to_plane[..., None])

    def colour(point):
        return torch.cat([torch.sin(point + torch.tensor([0.0, 1.0, 2.0])), torch.ones_like(point[..., :1])], -1)

    true = colour(samples.points[0, :, :, 0])  # [2, L, 4], what both pictures show
    both = samples.visible[0, :, :, :, 0].all(0)
    assert both.float().mean() > 0.5
    given = block(true, samples, (16, 16))
    inner = both & (samples.pixels[0, :, :, :, 0] - 8).abs().amax(-1).amax(0).lt(7)
    assert (given - true)[inner].abs().max() < 0.01


@torch.no_grad()
def test_the_block_has_no_order_of_views_or_objects_and_one_view_sees_itself():
    sets = orbit([0, 90, 200, 20, 110, 290], [15] * 3 + [-5] * 3, 3, 40, 8, num_views=3)
    block, x = block_of(), torch.randn(6, 64, 8, generator=torch.Generator().manual_seed(0))
    samples = LevelGeometry(sets, 1).samples
    output = block(x, samples, (8, 8))
    order = torch.tensor([4, 3, 5, 1, 2, 0])
    reordered = block(x[order], LevelGeometry(sets.take(order, 3), 1).samples, (8, 8))
    torch.testing.assert_close(reordered, output[order], atol=1e-5, rtol=1e-5)
    changed = block(x.index_fill(0, torch.tensor(2), 0.5), samples, (8, 8)) - output
    assert (changed[:3].abs().amax((1, 2)) > 1e-4).all() and (changed[3:] == 0).all()
    one = LevelGeometry(replace(sets[:1], num_views=1), 1).samples
    alone = block(x[:1], one, (8, 8))
    # softmax over itself alone is 1: each token is its own value, the same at all depths
    by_hand = block.ray_attn.to_out(block.ray_attn.to_v(block.point_attn.to_out(block.point_attn.to_v(x[:1]))))
    torch.testing.assert_close(alone, by_hand, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_is_behind_a_camera_or_outside_its_picture_has_no_say():
    near = orbit([20, 95, 200], [15, 5, 25], [2.2, 2.5, 0.8], [40, 45, 50], 8, num_views=3)
    samples = LevelGeometry(near, 1).samples
    hidden = ~samples.visible
    assert 0.1 < hidden.float().mean() < 0.9
    assert samples.pixels.isfinite().all() and (samples.pixels == 0).all(-1).any()  # some are behind
    block, x = block_of(), torch.randn(3, 64, 8, generator=torch.Generator().manual_seed(0))
    elsewhere = samples.pixels + 3.0 * hidden[..., None]
    moved = RayPoints(samples.points, elsewhere, samples.visible)
    assert torch.equal(block(x, moved, (8, 8)), block(x, samples, (8, 8)))
    all_seen = RayPoints(samples.points, samples.pixels, torch.ones_like(samples.visible))
    assert not torch.allclose(block(x, all_seen, (8, 8)), block(x, samples, (8, 8)), atol=1e-3)


def _networks(attention):
    """A network of the inflated kind, and one of another kind on the same weights."""
    torch.manual_seed(0)
    inflated = MultiViewUNet(**TINY).eval()
    unet = MultiViewUNet(**TINY, view_attention=attention).eval()
    missing, unexpected = unet.load_state_dict(inflated.state_dict(), strict=False)
    assert missing and not unexpected
    return inflated, unet


def _told(count, cameras=CAMERAS):
    latents, timestep, text, _ = inputs(count)
    return latents, timestep, text, mvdream_camera_vectors(cameras)[:count].repeat(-(-count // 4), 1)[:count]


@torch.no_grad()
def test_at_the_start_the_network_is_the_inflated_one_to_the_last_bit(monkeypatch):
    for attention in NEW:
        inflated, unet = _networks(attention)
        told = _told(8)
        expected = inflated(*told, 4)
        actual = unet(*told, 4, CAMERAS)
        assert torch.equal(actual, expected) == (attention is ViewAttention.epipolar)
        for views, cameras in ((1, CAMERAS[:1]), (1, None)):  # one view, with and without its camera
            camera = told[3] if cameras else None
            assert torch.equal(unet(*told[:3], camera, views, cameras), inflated(*told[:3], camera, views))
        assert torch.equal(unet(*told[:3], None, 4), inflated(*told[:3], None, 4))  # no geometry, no lines
        with monkeypatch.context() as patch:
            patch.setattr(LevelGeometry, "mask", property(lambda level: torch.ones_like(LINES(level))))
            assert torch.equal(unet(*told, 4, CAMERAS), expected)  # lines that leave nothing out


@torch.no_grad()
def test_a_start_from_mini_is_mini():
    mini = MultiViewPrior.from_pretrained("mini")
    told = Conditions(mini.encode_text(["a red cat", "a blue cone"]), CAMERAS, 4)
    latents = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = mini.denoise(latents, torch.tensor(300), told).noise
    epipolar = start_prior("mini", ViewAttention.epipolar)
    assert torch.equal(epipolar.denoise(latents, torch.tensor(300), told).noise, expected)
    spad = start_prior("mini", ViewAttention.spad)
    assert not torch.equal(spad.denoise(latents, torch.tensor(300), told).noise, expected)
    for cameras in (None, CAMERAS[:2]):  # one view sees all of itself; its rays say nothing yet
        single = Conditions(told.text, cameras)
        theirs, ours = (prior.denoise(latents[:2], torch.tensor(300), single).noise for prior in (mini, spad))
        assert torch.equal(ours, theirs)
    for prior in (epipolar, spad):
        blocks = [m for m in prior.unet.modules() if isinstance(m, EpipolarTransformerBlock | RayTransformerBlock)]
        assert len(blocks) == 2 + 1 + 2 * 2  # 8 x 8 and 4 x 4 down, the middle, and two at each of them up


@pytest.mark.parametrize("attention", NEW)
@torch.no_grad()
def test_views_have_no_order_and_moved_cameras_are_told(attention):
    inflated, unet = _networks(attention)
    trained(unet)
    latents, timestep, text, camera = _told(4)
    output = unet(latents, timestep, text, camera, 4, CAMERAS)
    order = torch.tensor([2, 0, 3, 1])
    reordered = unet(latents[order], timestep, text[order], camera[order], 4, CAMERAS.take(order, 4))
    torch.testing.assert_close(reordered, output[order], atol=1e-4, rtol=1e-4)
    # the same vectors, which know no distance, and other cameras
    far = orbit([0, 90, 180, 270], 15, 6, 40, 8, num_views=4)
    assert not torch.allclose(unet(latents, timestep, text, camera, 4, far), output, atol=1e-3)
    twice = [torch.cat([part, part]) for part in (latents, timestep, text, camera)]
    torch.testing.assert_close(unet(*twice, 4, CAMERAS), torch.cat([output, output]), atol=1e-5, rtol=1e-4)
    single = unet(latents, timestep, text, camera, 1, CAMERAS)
    inflated.load_state_dict({name: unet.state_dict()[name] for name in inflated.state_dict()})
    alone = inflated(latents, timestep, text, camera, 1)
    assert torch.equal(single, alone) == (attention is ViewAttention.epipolar)  # SPAD's rays are told to one view too
    assert torch.equal(unet(latents, timestep, text, None, 1), inflated(latents, timestep, text, None, 1))
    with pytest.raises(ValueError, match=f"view_attention={attention.value} needs the cameras"):
        unet(latents, timestep, text, camera, 4)


@torch.no_grad()
def test_a_pixel_hears_of_other_views_along_its_line_only():
    """One self-attention of SPAD's: what is changed off the lines of a pixel does not reach it."""
    _, unet = _networks(ViewAttention.spad)
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    geometry = ViewGeometry(CAMERAS, 4, 4, (8, 8))
    tokens = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[2, 37] += 1
    for attend in (torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
        with attend, torch.set_grad_enabled(not isinstance(attend, torch.no_grad)):  # fused; plain products
            before, after = (block.attn1(x, num_views=4, geometry=geometry) for x in (tokens, changed))
        reached = (before != after).any(-1).flatten()
        mask = geometry.level(64).mask[0, :, 2 * 64 + 37]
        assert not reached[~mask].any() and reached[mask].float().mean() > 0.9 and mask[:128].any()


@pytest.mark.parametrize("attention", NEW)
@torch.no_grad()
def test_in_bfloat16_it_is_nearly_the_same(attention):
    """Features may be rounded, rays and lines may not: see test_epipolar.py."""
    _, unet = _networks(attention)
    trained(unet)
    latents, timestep, text, camera = _told(4)
    expected = unet(latents, timestep, text, camera, 4, CAMERAS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = [unet(latents, timestep, text, camera, 4, CAMERAS).float()]
    unet.to(torch.bfloat16)
    told = [part.to(torch.bfloat16) for part in (latents, text, camera)]
    rounded.append(unet(told[0], timestep, *told[1:], 4, CAMERAS).float())
    for output in rounded:
        assert (output - expected).abs().mean() < 0.05 * expected.abs().mean()
