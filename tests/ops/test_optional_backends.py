"""The back ends that stand on other libraries, with stand-ins that have those libraries' signatures and do in slow,
plain torch what their documentation says."""

import itertools
import sys
import types

import pytest
import torch
from torch.nn.functional import normalize

from threedgen.config.scene import BackendName, GridConfig
from threedgen.core.errors import ConfigError
from threedgen.ops import nerfacc_backend, plain, tinycudann_backend
from threedgen.ops.backends import select_backend
from threedgen.ops.grid import HashGrid
from threedgen.ops.types import FieldLayout

LAYOUT = FieldLayout(HashGrid.from_config(GridConfig(2, 4, 9, 4, 24)), 1.0, 5.0, 0.6, 3.0)


# nerfacc 0.5.3


def traverse_grids(
    rays_o,
    rays_d,
    binaries,
    aabbs,
    near_planes=None,
    far_planes=None,
    step_size=1e-3,
    cone_angle=0.0,
    traverse_steps_limit=None,
    over_allocate=False,
    rays_mask=None,
    t_sorted=None,
    t_indices=None,
    hits=None,
):
    """nerfacc.grid.traverse_grids with one grid and steps of one size: intervals [t, t + step] from the near plane on
    whose middle lies in an occupied cell. Neighbouring intervals share an edge."""
    assert binaries.ndim == 4 and len(binaries) == 1 and binaries.dtype == torch.bool
    assert aabbs.shape == (1, 6) and near_planes.shape == (len(rays_o),)
    low, high = aabbs[0, :3], aabbs[0, 3:]
    resolution = torch.tensor(binaries.shape[1:])
    edges, left, right, mids, owners, counts = [], [], [], [], [], []
    for ray in range(len(rays_o)):
        t, previous, count = near_planes[ray].clone(), -1, 0
        enter, leave = plain.ray_box(rays_o[ray : ray + 1], rays_d[ray : ray + 1], low, high)
        index = 0
        while enter < leave and t + 0.5 * step_size < leave:
            middle = rays_o[ray] + (t + 0.5 * step_size) * rays_d[ray]
            cell = ((middle - low) / (high - low) * resolution).long()
            if t + 0.5 * step_size >= enter and binaries[0][tuple(cell.clamp(min=0).minimum(resolution - 1))]:
                if previous == index - 1 and count:
                    left[-1] = True
                else:
                    edges.append(t.clone()), left.append(True), right.append(False)
                edges.append(t + step_size), left.append(False), right.append(True)
                mids.append(t + 0.5 * step_size), owners.append(ray)
                previous, count = index, count + 1
            t, index = t + step_size, index + 1
        counts.append(count)
    counts = torch.tensor(counts, dtype=torch.long)
    packed_info = torch.stack([counts.cumsum(0) - counts, counts], -1)
    vals = torch.stack(edges) if edges else torch.zeros(0)
    intervals = types.SimpleNamespace(vals=vals, is_left=torch.tensor(left).bool(), is_right=torch.tensor(right).bool())
    samples = types.SimpleNamespace(ray_indices=torch.tensor(owners).long(), packed_info=packed_info)
    return intervals, samples, None


def render_weight_from_density(
    t_starts, t_ends, sigmas, packed_info=None, ray_indices=None, n_rays=None, prefix_trans=None
):
    """nerfacc.volrend.render_weight_from_density, in its formulas: w_i = T_i (1 - exp(-sigma_i delta_i))."""
    sigmas_dt = sigmas * (t_ends - t_starts)
    pieces = sigmas_dt.split(packed_info[:, 1].tolist())
    trans = torch.exp(-torch.cat([piece.cumsum(0) - piece for piece in pieces]))
    alphas = 1.0 - torch.exp(-sigmas_dt)
    return trans * alphas, trans, alphas


def accumulate_along_rays(weights, values=None, ray_indices=None, n_rays=None):
    """nerfacc.volrend.accumulate_along_rays of flattened samples: [n_rays, D], D = 1 without values."""
    source = weights[:, None] if values is None else weights[:, None] * values
    return torch.zeros(n_rays, source.shape[1]).index_add(0, ray_indices, source)


@pytest.fixture
def nerfacc(monkeypatch):
    module = types.ModuleType("nerfacc")
    for function in (traverse_grids, render_weight_from_density, accumulate_along_rays):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "nerfacc", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return select_backend(BackendName.nerfacc)


# tinycudann


class Network(torch.nn.Module):
    """tinycudann.Network(n_input_dims, n_output_dims, network_config, seed): matrices in rows one after the other,
    without biases, inputs padded with ones to a multiple of 16, surplus outputs cut off; half precision in and out."""

    def __init__(self, n_input_dims, n_output_dims, network_config, seed=1337):
        super().__init__()
        assert network_config["activation"] == "ReLU" and network_config["output_activation"] == "None"
        assert network_config["otype"] in ("FullyFusedMLP", "CutlassMLP")
        width = network_config["n_neurons"]
        if network_config["otype"] == "FullyFusedMLP":
            assert width in (32, 64, 128)
        inputs, outputs = -(-n_input_dims // 16) * 16, -(-n_output_dims // 16) * 16
        hidden = [(width, width)] * (network_config["n_hidden_layers"] - 1)
        self.shapes = [(width, inputs), *hidden, (outputs, width)]
        self.n_output_dims = n_output_dims
        self.params = torch.nn.Parameter(torch.full((sum(rows * columns for rows, columns in self.shapes),), 1e3))

    def forward(self, x):
        x = torch.nn.functional.pad(x, (0, self.shapes[0][1] - x.shape[1]), value=1.0).half().float()
        matrices = self.params.half().float().split([rows * columns for rows, columns in self.shapes])
        for shape, matrix in zip(self.shapes, matrices, strict=True):
            x = (x @ matrix.view(shape).T).half().float()
            x = x.relu() if matrix is not matrices[-1] else x
        return x[:, : self.n_output_dims].half()


@pytest.fixture
def tinycudann(monkeypatch):
    module = types.ModuleType("tinycudann")
    module.Network = Network
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    tinycudann_backend._network.cache_clear()
    yield select_backend(BackendName.tinycudann)
    tinycudann_backend._network.cache_clear()


@pytest.fixture(params=["nerfacc", "tinycudann"])
def ops_and_tolerance(request):
    return request.getfixturevalue(request.param), {"nerfacc": 1e-5, "tinycudann": 1e-2}[request.param]


# both


def scene(num_hidden_layers=1, width=20):
    """A table, weights, 40 rays and an occupancy grid."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(LAYOUT.grid.num_rows, 4, generator=generator)
    widths = [LAYOUT.grid.num_outputs, *[width] * num_hidden_layers, 4]
    weights = [torch.randn(o, i, generator=generator) * i**-0.5 for i, o in itertools.pairwise(widths)]
    origins = torch.randn(40, 3, generator=generator) * 2
    origins[:10] *= 0.2
    directions = normalize(torch.randn(40, 3, generator=generator) * 0.4 - origins, dim=-1)
    occupancy = torch.rand(9, 9, 9, generator=generator) < 0.5
    return table, weights, origins, directions, occupancy


@pytest.mark.parametrize("jitter", [None, 0.0, 0.7])
def test_marching(nerfacc, jitter):
    *_, origins, directions, occupancy = scene()
    jitter = None if jitter is None else torch.full((40,), jitter)
    expected = plain.march(origins, directions, occupancy, 1.0, 0.05, jitter)
    found = nerfacc.march(origins, directions, occupancy, 1.0, 0.05, jitter)
    assert torch.equal(torch.repeat_interleave(found.offsets.diff()), found.ray_indices)

    def middles(samples):
        return {
            (ray, round(t / 0.005))
            for ray, t in zip(samples.ray_indices.tolist(), samples.t_mids.tolist(), strict=True)
        }

    # distances within 2 thousandths of a step, but for samples on the face of a cell
    assert len(expected.t_starts) > 200
    near = {(ray, t + shift) for ray, t in middles(expected) for shift in (-1, 0, 1)}
    assert len(middles(found) - near) <= 0.01 * len(expected.t_starts)
    assert abs(len(found.t_starts) - len(expected.t_starts)) <= 0.01 * len(expected.t_starts)


def test_no_sample(nerfacc):
    *_, origins, directions, occupancy = scene()
    found = nerfacc.march(origins, directions, torch.zeros_like(occupancy), 1.0, 0.05)
    assert found.offsets.tolist() == [0] * 41 and len(found.t_starts) == 0


@pytest.mark.parametrize("min_transmittance", [0.0, 0.1])
def test_rendering_equals_the_reference(ops_and_tolerance, min_transmittance):
    ops, tolerance = ops_and_tolerance
    table, weights, origins, directions, occupancy = scene()
    samples = plain.march(origins, directions, occupancy, 1.0, 0.05)
    results = []
    for backend in (ops, plain):
        inputs = [x.clone().requires_grad_() for x in (table, *weights)]
        seen = backend.render_field(inputs[0], inputs[1:], LAYOUT, origins, directions, samples, min_transmittance)
        loss = seen.rgb.square().sum() + seen.depth.sum() + seen.weights.square().sum()
        results.append([*seen, *torch.autograd.grad(loss, inputs)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() <= tolerance * expected.norm()


def test_other_ops_equal_the_reference(ops_and_tolerance):
    ops, tolerance = ops_and_tolerance
    table, weights, origins, _, _ = scene()
    positions = origins / origins.abs().max()
    for name in ("evaluate_field", "field_with_normals"):
        arguments = (table, weights, LAYOUT, positions)
        for found, expected in zip(getattr(ops, name)(*arguments), getattr(plain, name)(*arguments), strict=True):
            torch.testing.assert_close(found, expected, rtol=max(tolerance, 2e-2), atol=max(tolerance, 2e-2))
    opacity, occupied = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 5, 5).bool()
    arguments = (table, weights, LAYOUT, opacity, occupied, 3, 0.9, True)
    torch.testing.assert_close(
        ops.refresh_occupancy(*arguments), plain.refresh_occupancy(*arguments), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("num_hidden_layers", "width"), [(0, 1), (1, 64), (1, 16), (2, 20), (3, 128)])
def test_networks_of_any_size(tinycudann, num_hidden_layers, width):
    """Padding of inputs, outputs and hidden layers; and no hidden layer at all, which the library does not have."""
    _, weights, *_ = scene(num_hidden_layers, width)
    inputs = torch.randn(33, LAYOUT.grid.num_outputs, generator=torch.Generator().manual_seed(1))
    expected = plain.field.composed.mlp(inputs, weights)
    found = tinycudann_backend.mlp(inputs, weights)
    assert found.dtype == torch.float32 and (found - expected).norm() <= 3e-3 * expected.norm()
    assert tinycudann_backend.mlp(inputs[:0], weights).shape == (0, 4)


def test_an_unknown_layout_is_refused(tinycudann, monkeypatch):
    _, weights, *_ = scene()
    monkeypatch.setattr(tinycudann_backend, "_PADDING", 8)
    with pytest.raises(ConfigError, match="parameters where"):
        tinycudann_backend.mlp(torch.zeros(2, LAYOUT.grid.num_outputs), weights)


def test_hidden_layers_of_different_widths_are_refused(tinycudann):
    weights = [torch.zeros(16, 8), torch.zeros(32, 16), torch.zeros(4, 32)]
    with pytest.raises(ConfigError, match=r"one width are needed, not \[16, 32\]"):
        tinycudann_backend.mlp(torch.zeros(2, 8), weights)


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
@pytest.mark.parametrize("name", ["nerfacc", "tinycudann"])
def test_a_library_that_cannot_be_imported(monkeypatch, name, error):
    """tinycudann, for one, raises OSError where there is no GPU."""

    class Broken:
        def find_spec(self, fullname, path=None, target=None):
            if fullname == name:
                raise error("out of order")

    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(
        ConfigError, match=rf"^scene\.backend={name}: {name} cannot be imported \(out of order\); [^\n]*$"
    ):
        select_backend(BackendName[name])


def test_nerfacc_without_a_gpu(nerfacc, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        nerfacc_backend.require()
