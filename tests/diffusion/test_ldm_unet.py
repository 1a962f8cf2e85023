"""The UNet under its original names: the reference implementation's numbers, and for other configs a plain
re-statement of the original network, written out below from its published description and checked on those numbers."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.multiview_unet import match_ldm_unet, multiview_unet_from_ldm
from threedgen.diffusion.sampling import sample_latents
from threedgen.diffusion.schedule import stable_diffusion_schedule
from threedgen.diffusion.tensor_files import stored_tensors

PUBLIC_KEYS = Path(__file__).parent / "public_keys"  # of the public checkpoints: {key: shape}


@pytest.fixture(scope="module")
def config(goldens_folder):
    with safe_open(goldens_folder / "golden_mvunet_small.safetensors", "pt") as file:
        return json.loads(file.metadata()["unet_config"])


@pytest.fixture(scope="module")
def weights(goldens):
    return {key.removeprefix("weights."): value for key, value in goldens.items() if key.startswith("weights.")}


@pytest.fixture(scope="module")
def unet(config, weights):
    return multiview_unet_from_ldm(config, weights)


def _close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("key", "objects", "has_camera", "num_views"),
    [
        ("mv_nf4", 8, True, 4),
        ("mv_nf4_first_object_only", 4, True, 4),
        ("nf8", 8, True, 8),
        ("2d_nf1_camera", 8, True, 1),
        ("2d_nf1_nocamera", 8, False, 1),
        ("mv_nf4_8x16", 4, True, 4),
    ],
)
def test_forward_equals_the_reference(goldens, unet, key, objects, has_camera, num_views):
    latents = goldens["in.x_8x16" if key.endswith("8x16") else "in.x"][:objects]
    camera = goldens["in.camera"][:objects] if has_camera else None
    with torch.no_grad():
        actual = unet(latents, goldens["in.t"][:objects], goldens["in.context"][:objects], camera, num_views)
    _close(actual, goldens[f"out.{key}"])


def test_embeddings_equal_the_reference(goldens, unet):
    with torch.no_grad():
        sinusoid = unet.time_proj(goldens["in.t"])
        _close(sinusoid, goldens["out.temb_sinusoid_32"])
        _close(unet.time_embedding(sinusoid), goldens["out.emb_time"])
        _close(unet.class_embedding(goldens["in.camera"]), goldens["out.emb_camera"])


def test_training_gradients_equal_the_reference(goldens, config, weights):
    """Those of seven parameters and of the input, and the norm of all together."""
    unet = multiview_unet_from_ldm(config, weights).train()
    latents = goldens["in.x"].clone().requires_grad_()
    noise = unet(latents, goldens["in.t"], goldens["in.context"], goldens["in.camera"], 4)
    loss = (noise - goldens["in.eps_target"]).square().mean()
    loss.backward()
    _relative(loss.reshape(1), goldens["out.train_mse"])
    _relative(latents.grad, goldens["out.train_grad_x"])
    matched = match_ldm_unet(config, stored_tensors(weights), "weights")
    gradients = {matched.sources[name].key: parameter.grad for name, parameter in unet.named_parameters()}
    golden = {k.removeprefix("out.train_grad."): v for k, v in goldens.items() if k.startswith("out.train_grad.")}
    assert len(golden) == 7
    for key, expected in golden.items():
        _relative(gradients[key], expected)
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    _relative(total.reshape(1), goldens["out.train_grad_total_norm"])


def _relative(actual, expected, tolerance=1e-4):
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


class _Prior:
    """What the sampler needs of a prior, around the reference's small UNet."""

    def __init__(self, unet):
        self.unet, self.alphas_cumprod = unet, stable_diffusion_schedule().alphas_cumprod

    def noise_level(self, timestep):
        alpha_bar = self.alphas_cumprod[timestep].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def predict_noise(self, noisy, timestep, text, camera, num_views):
        return self.unet(noisy, timestep, text, camera, num_views)


@pytest.mark.parametrize("steps", [5, 30])
def test_ddim_equals_the_reference_sampler(goldens, unet, steps):
    text, negative, camera, noise = (goldens[f"ddim.{k}"] for k in ("cond_context", "uncond_context", "camera", "x_T"))
    latents = sample_latents(_Prior(unet), text, negative, camera, 4, noise, steps, guidance_scale=10.0)
    _relative(latents, goldens[f"ddim.out_S{steps}_cfg10_eta0"], 1e-4)


# --- the original network, plainly ---


def _attend(q, k, v, heads):
    """softmax(q k^T / sqrt(d)) v with the whole score matrix."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(n, width, bias=False) for n in (width, context, context))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x, context):
        return self.to_out[0](_attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class _Gate(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * functional.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.ModuleList([_Gate(width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class _Block(nn.Module):
    def __init__(self, width, context, heads):
        super().__init__()
        self.attn1, self.attn2 = _Attention(width, width, heads), _Attention(width, context, heads)
        self.ff = _FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, text, num_views):
        joint = x.reshape(len(x) // num_views, -1, x.shape[-1])  # all views of an object
        normed = self.norm1(joint)
        x = (self.attn1(normed, normed) + joint).reshape(x.shape)
        x = self.attn2(self.norm2(x), text) + x
        return self.ff(self.norm3(x)) + x


class _Transformer(nn.Module):
    def __init__(self, width, context, heads, depth, linear):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.linear = linear
        self.proj_in, self.proj_out = (nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1) for _ in "io")
        self.transformer_blocks = nn.ModuleList(_Block(width, context, heads) for _ in range(depth))

    def forward(self, x, text, num_views):
        h, w = x.shape[-2:]
        y = self.norm(x)
        y = self.proj_in(y.flatten(2).mT) if self.linear else self.proj_in(y).flatten(2).mT
        for block in self.transformer_blocks:
            y = block(y, text, num_views)
        y = self.proj_out(y).mT.unflatten(2, (h, w)) if self.linear else self.proj_out(y.mT.unflatten(2, (h, w)))
        return x + y


class _ResBlock(nn.Module):
    def __init__(self, before, after, embedding, scale_shift):
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(32, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, after * (2 if scale_shift else 1)))
        out = nn.GroupNorm(32, after), nn.SiLU(), nn.Identity(), nn.Conv2d(after, after, 3, padding=1)
        self.out_layers = nn.Sequential(*out)
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x, embedding):
        y, e = self.in_layers(x), self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            return self.skip_connection(x) + self.out_layers[1:](self.out_layers[0](y) * (1 + scale) + shift)
        return self.skip_connection(x) + self.out_layers(y + e)


class _Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class _Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


class _Original(nn.Module):
    """`MultiViewUNetModel` from its config words."""

    def __init__(self, c):
        super().__init__()
        base, multiples, blocks = c["model_channels"], c["channel_mult"], c["num_res_blocks"]
        blocks = [blocks] * len(multiples) if isinstance(blocks, int) else blocks
        embedding, self.base = 4 * base, base
        context = c["context_dim"] if isinstance(c["context_dim"], int) else c["context_dim"][0]

        def transformer(width):
            heads = width // c["num_head_channels"] if c.get("num_head_channels", -1) != -1 else c["num_heads"]
            depth = c.get("transformer_depth", 1)
            return _Transformer(width, context, heads, depth, c.get("use_linear_in_transformer", False))

        def resblock(before, after):
            return _ResBlock(before, after, embedding, c.get("use_scale_shift_norm", False))

        def mlp(width):
            return nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        self.time_embed = mlp(base)
        if c.get("camera_dim"):
            self.camera_embed = mlp(c["camera_dim"])
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(c["in_channels"], base, 3, padding=1)])])
        self.output_blocks = nn.ModuleList()
        skips, width = [base], base
        for level, multiple in enumerate(multiples):
            for _ in range(blocks[level]):
                layers = [resblock(width, multiple * base)]
                width = multiple * base
                if 2**level in c["attention_resolutions"]:
                    layers.append(transformer(width))
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(width)
            if level < len(multiples) - 1:
                self.input_blocks.append(nn.ModuleList([_Down(width)]))
                skips.append(width)
        self.middle_block = nn.ModuleList([resblock(width, width), transformer(width), resblock(width, width)])
        for level in reversed(range(len(multiples))):
            for i in range(blocks[level] + 1):
                layers = [resblock(width + skips.pop(), multiples[level] * base)]
                width = multiples[level] * base
                if 2**level in c["attention_resolutions"]:
                    layers.append(transformer(width))
                if level and i == blocks[level]:
                    layers.append(_Up(width))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(base, c["out_channels"], 3, padding=1))

    def forward(self, x, timesteps, text, camera=None, num_views=1):
        frequencies = torch.exp(-math.log(10000) * torch.arange(self.base // 2) / (self.base // 2))
        angles = timesteps[:, None] * frequencies
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], -1))
        if camera is not None:
            embedding = embedding + self.camera_embed(camera)

        def run(layers, x):
            for layer in layers:
                if isinstance(layer, _ResBlock):
                    x = layer(x, embedding)
                else:
                    x = layer(x, text, num_views) if isinstance(layer, _Transformer) else layer(x)
            return x

        skips = []
        for layers in self.input_blocks:
            x = run(layers, x)
            skips.append(x)
        x = run(self.middle_block, x)
        for layers in self.output_blocks:
            x = run(layers, torch.cat([x, skips.pop()], 1))
        return self.out(x)


def test_the_plain_network_is_the_reference(goldens, config, weights):
    original = _Original(config)
    original.load_state_dict(weights)
    with torch.no_grad():
        noise = original(goldens["in.x"], goldens["in.t"], goldens["in.context"], goldens["in.camera"], 4)
    _close(noise, goldens["out.mv_nf4"])


_SMALL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [1],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 24,
    "use_checkpoint": False,
    "legacy": False,
    "camera_dim": 16,
}
_SD2 = {"num_heads": -1, "num_head_channels": 16, "use_linear_in_transformer": True}
_CONFIGS = {
    "as SD 1.5": {"channel_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attention_resolutions": [4, 2, 1]},
    "as SD 2.1": {"channel_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attention_resolutions": [4, 2, 1], **_SD2},
    "blocks differ by level": {"num_res_blocks": [2, 1, 3], "channel_mult": [1, 3, 2], "attention_resolutions": [2]},
    "attention in the middle only": {"attention_resolutions": []},
    "one level": {"channel_mult": [1]},
    "deep transformers": {"transformer_depth": 2, "context_dim": [24, 24], **_SD2},
    "no camera": {"camera_dim": None},
    "other camera, channels": {"camera_dim": 5, "in_channels": 9, "out_channels": 8, "model_channels": 64},
    "scale and shift": {"use_scale_shift_norm": True},
}


@pytest.mark.parametrize("name", _CONFIGS)
def test_other_configs_equal_the_plain_network(name):
    torch.manual_seed(0)
    config = {**_SMALL, **_CONFIGS[name]}
    original = _Original(config).eval()
    unet = multiview_unet_from_ldm(config, original.state_dict())
    assert sum(p.numel() for p in unet.parameters()) == sum(p.numel() for p in original.parameters())
    latents, text = torch.randn(4, config["in_channels"], 16, 8), torch.randn(4, 5, 24)
    camera = torch.randn(4, config["camera_dim"]) if config["camera_dim"] else None
    timesteps = torch.tensor([3, 3, 700, 700])
    with torch.no_grad():
        expected = original(latents, timesteps, text, camera, 2)
        _close(unet(latents, timesteps, text, camera, 2), expected)
        assert (original(latents, timesteps, text, camera, 4) - expected).abs().max() > 1e-3  # views matter


def test_words_left_out_are_read_off_the_shapes():
    torch.manual_seed(0)
    config = {**_SMALL, **_CONFIGS["blocks differ by level"]}
    original = _Original(config).eval()
    unet = multiview_unet_from_ldm({"num_heads": 8}, original.state_dict())
    latents, text, camera = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24), torch.randn(2, 16)
    timesteps = torch.tensor([40, 40])
    with torch.no_grad():
        _close(unet(latents, timesteps, text, camera, 2), original(latents, timesteps, text, camera, 2))


def test_attention_is_never_written_out_and_only_self_attention_joins_views(unet, goldens, monkeypatch):
    calls, attend = [], functional.scaled_dot_product_attention

    def recording(q, k, v, **kwargs):
        calls.append((q.shape[0], q.shape[2], k.shape[2]))
        return attend(q, k, v, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recording)
    monkeypatch.setattr(torch.Tensor, "softmax", None)
    monkeypatch.setattr(torch, "baddbmm", None)
    with torch.no_grad():
        unet(goldens["in.x"], goldens["in.t"], goldens["in.context"], goldens["in.camera"], 4)
    joined, per_view = [call for call in calls if call[0] == 2], [call for call in calls if call[0] == 8]
    assert len(joined) == len(per_view) == len(calls) / 2 == 7  # 2 down, 1 middle, 4 up
    assert {call[1:] for call in joined} == {(4 * 64, 4 * 64), (4 * 16, 4 * 16)}
    assert {call[1:] for call in per_view} == {(64, 7), (16, 7)}


def test_a_camera_needs_a_network_with_cameras():
    config = {**_SMALL, "camera_dim": None}
    unet = multiview_unet_from_ldm(config, _Original(config).state_dict())
    with pytest.raises(ValueError, match="without one"):
        unet(torch.zeros(1, 4, 8, 8), torch.tensor([1]), torch.zeros(1, 5, 24), torch.zeros(1, 16), 1)


def test_missing_unknown_and_misshaped_keys_are_named():
    state = dict(_Original(_SMALL).state_dict())
    gone = sorted(state)[:7]
    damaged = {key: value for key, value in state.items() if key not in gone} | {"extra.weight": torch.zeros(1)}
    damaged["out.2.bias"] = torch.zeros(5)
    with pytest.raises(ThreedgenError) as error:
        multiview_unet_from_ldm(_SMALL, damaged)
    message = str(error.value)
    assert f"7 keys missing ({', '.join(gone[:5])}, ...)" in message and gone[5] not in message
    assert "1 key not known (extra.weight)" in message
    assert "1 key of another shape (out.2.bias [5] instead of [4])" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"resblock_updown": True}, "resblock_updown=True is not a network"),
        ({"num_classes": 10}, "num_classes=10"),
        ({"chanel_mult": [1]}, "chanel_mult"),
        ({"num_heads": -1}, "num_heads or num_head_channels must be stated"),
        ({"num_head_channels": 24}, "does not divide"),
        ({"num_res_blocks": [1, 1, 1]}, "num_res_blocks"),
        ({"context_dim": [24, 12]}, "context_dim"),
        ({"disable_self_attentions": [False, True]}, "disable_self_attentions"),
        ({"channel_mult": [1, 4]}, "of another shape"),
    ],
)
def test_words_that_make_another_network_are_refused(words, message):
    with pytest.raises(ThreedgenError, match=message):
        multiview_unet_from_ldm({**_SMALL, **words}, _Original(_SMALL).state_dict())


@pytest.mark.parametrize(
    ("name", "words", "parameters"),
    [("sd21", {"num_head_channels": 64}, 867_572_164), ("sd15", {"num_heads": 8}, 861_182_404)],
)
def test_the_public_checkpoints_have_exactly_these_keys(name, words, parameters):
    """Keys and shapes only; the module stays on the meta device."""
    file = PUBLIC_KEYS / f"mvdream_{name}_keys.json"
    prefix = "model.diffusion_model."
    shapes = {k.removeprefix(prefix): v for k, v in json.loads(file.read_text()).items() if k.startswith(prefix)}
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    matched = match_ldm_unet(words, stored_tensors(tensors), name)
    assert len(shapes) == 690
    assert sum(p.numel() for p in matched.module.parameters()) == parameters
    heads = {"sd21": (5, 10, 20, 20), "sd15": (8, 8, 8, 8)}
    assert matched.module.config.attention_head_dim == heads[name]
