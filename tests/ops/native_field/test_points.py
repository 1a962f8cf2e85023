"""The fused field at points against its twin, exactly that of the rounded features: every shape, tail and thread."""

import pytest
import torch

from threedgen.ops import native, plain
from threedgen.ops.native.field import _is_fused

TAILS = [*range(98), 191, 192, 193]
SHAPES = [(levels, features, (32,)) for levels in (1, 4, 16) for features in (1, 2, 4, 8)]
SHAPES += [(4, 8, (width,) * layers) for width in (8, 16, 64, 128) for layers in (1, 2)]
SHAPES += [(3, 3, (20, 12)), (2, 2, ()), (4, 4, (16, 32, 8))]  # padded, without and with more hidden layers


def arriving(count):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(count, *shape, generator=generator) for shape in ((), (3,), (3,))]


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_twin(shape, make_field, assert_near):
    field, count = make_field(*shape), 1000
    positions, grads = field.points(count, spread=1.05), arriving(count)
    ours = native.evaluate_field(*field.arguments, positions)
    exact = field.double()
    theirs = exact.exact(positions)[:2]
    assert_near(ours, theirs, 2e-6)
    assert_near(field.gradients(ours, grads[:2]), exact.gradients(theirs, grads[:2]), 5e-4)
    # features in half precision, 5e-4 of each, against the definition itself
    assert_near(ours, plain.evaluate_field(*exact.arguments, positions.double()), 1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_equal_their_twin(shape, make_field, assert_near):
    field, count = make_field(*shape), 1000
    positions, grads = field.points(count), arriving(count)
    ours = native.field_with_normals(*field.arguments, positions)
    exact = field.double()
    theirs = exact.exact(positions)
    assert_near(ours, theirs, 2e-5)
    assert_near(field.gradients(ours, grads), exact.gradients(theirs, grads), 1e-3)


def test_second_order_alone(make_field, assert_near):
    """Losses on the normals only: no gradient but the one through the gradient."""
    for hidden in ((32,), (32, 32)):
        field = make_field(hidden=hidden)
        positions, (_, _, grad) = field.points(3000), arriving(3000)
        exact = field.double()
        ours = field.gradients(native.field_with_normals(*field.arguments, positions)[2:], [grad])
        assert_near(ours, exact.gradients(exact.exact(positions)[2:], [grad]), 1e-3)
        # in float64 the composed way is the definition's
        composed = native.field_with_normals(*exact.arguments, positions.double())
        theirs = plain.field_with_normals(*exact.arguments, positions.double())
        assert_near(composed, theirs, 1e-12)


def test_normals_point_out_of_the_blob(make_field):
    """With a table of zeros only the blob is left, and its gradient is known."""
    field = make_field()
    with torch.no_grad():
        field.table.zero_()
    positions = torch.cat([field.points(100), torch.zeros(1, 3)])
    density, _, normals = native.field_with_normals(*field.arguments, positions)
    torch.testing.assert_close(normals[:-1], torch.nn.functional.normalize(positions[:-1], dim=-1))
    assert (normals[-1] == 0).all()  # the blob's peak has no direction
    layout = field.layout
    logit = layout.blob_density * (1 - positions.norm(dim=-1) / layout.blob_radius)
    torch.testing.assert_close(density, layout.density_scale * torch.nn.functional.softplus(logit))


def test_outside_of_the_cube_the_network_has_no_slope(make_field):
    """Positions are clamped, so beyond a face the features do not change along its axis."""
    field = make_field()
    positions = field.points(50)
    positions[:, 1] = 1.5 * field.layout.radius
    ours = native.field_with_normals(*field.arguments, positions)
    theirs = plain.field_with_normals(*field.double().arguments, positions.double())
    torch.testing.assert_close(ours[2].double(), theirs[2], atol=2e-3, rtol=0)
    grads = [torch.zeros(50), torch.zeros(50, 3), torch.randn(50, 3, generator=torch.Generator().manual_seed(0))]
    exact = field.double()
    for a, b in zip(field.gradients(ours, grads), exact.gradients(exact.exact(positions), grads), strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("num_features", [3, 8])
def test_every_tail_of_a_tile(num_features, make_field, assert_near, threads):
    """A tail's results are those of a full tile, and nothing of its padding reaches a gradient."""
    field = make_field(2, num_features, (16,))
    positions, grads = field.points(200), arriving(200)
    whole = native.field_with_normals(*field.arguments, positions)
    exact = field.double()
    exact_whole = exact.exact(positions)
    for n in TAILS:
        for op in (native.evaluate_field, native.field_with_normals):
            results = []
            for num_threads in (1, 2):
                threads(num_threads)
                ours = op(*field.arguments, positions[:n])
                part = [g[:n] for g in grads[: len(ours)]]
                results.append([*ours, *field.gradients(ours, part)])
            threads(1)
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
            assert all(torch.equal(a, b[:n]) for a, b in zip(ours, whole, strict=False))
            loss = sum((x[:n] * g).sum() for x, g in zip(exact_whole, part, strict=False))
            theirs = torch.autograd.grad(loss, exact.parameters, retain_graph=True)
            assert_near(results[0][len(ours) :], theirs, 1e-4)


def test_is_bitwise_equal_for_every_number_of_threads(make_field, threads):
    for shape in ((4, 8, (32,)), (16, 2, (32, 32))):
        field, count = make_field(*shape), 20_000
        positions, grads = field.points(count), arriving(count)
        results = []
        for num_threads in (1, 2, 3, 2):
            threads(num_threads)
            ours = native.field_with_normals(*field.arguments, positions)
            plain = native.evaluate_field(*field.arguments, positions)
            results.append([*ours, *field.gradients(ours, grads), *plain, *field.gradients(plain, grads[:2])])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_occupancy_equals_its_twin(make_field, threads):
    field = make_field()
    generator = torch.Generator().manual_seed(0)
    for resolution in (1, 5, 16):
        opacity = torch.rand(resolution, resolution, resolution, generator=generator) * 0.2
        occupied = torch.rand(resolution, resolution, resolution, generator=generator) < 0.3
        for all_cells in (True, False):
            settings = occupied, 2**40 + 7, 0.9, all_cells
            theirs = plain.refresh_occupancy(*field.double().arguments, opacity.double(), *settings)
            for num_threads in (1, 2):
                threads(num_threads)
                ours = native.refresh_occupancy(*field.arguments, opacity, *settings)
                torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=0)
                assert torch.equal(ours == opacity, theirs == opacity.double())  # the very same cells were looked at


def test_what_the_kernels_do_not_cover_is_composed(make_field, assert_near):
    field, exact = make_field(), make_field().double()
    positions = field.points(30)
    assert _is_fused(field.table, field.weights, positions)
    assert not _is_fused(exact.table, exact.weights, positions.double())
    assert_near(
        native.evaluate_field(*exact.arguments, positions.double()),
        plain.evaluate_field(*exact.arguments, positions.double()),
        1e-12,
    )
    moving = positions.clone().requires_grad_()
    assert not _is_fused(field.table, field.weights, moving)
    (ours,) = torch.autograd.grad(native.evaluate_field(*field.arguments, moving)[0].sum(), moving)
    (theirs,) = torch.autograd.grad(plain.evaluate_field(*field.arguments, moving)[0].sum(), moving)
    assert_near([ours], [theirs.double()], 1e-4)
    with torch.no_grad():
        assert _is_fused(field.table, field.weights, moving)


@pytest.mark.parametrize("count", [0, 1, 97])
def test_is_registered_as_torch_wants_it(count, make_field):
    field = make_field(2, 4, (16,))
    layout = field.layout
    numbers = [layout.radius, layout.blob_density, layout.blob_radius, layout.density_scale]
    arguments = field.table, field.weights, layout.grid.layout, numbers
    for op in (torch.ops.threedgen.evaluate_field, torch.ops.threedgen.field_with_normals):
        for learn in (True, False):
            torch.library.opcheck(op, (*arguments, field.points(count), learn), test_utils=checks(learn))
    opacity = torch.zeros(3, 3, 3)
    torch.library.opcheck(
        torch.ops.threedgen.refresh_occupancy,
        (*arguments, opacity, opacity > 0, 1, 0.9, True),
        test_utils=checks(False),
    )


def checks(learn):
    """Without `learn` nothing is kept for a backward pass, which opcheck would go on to ask for."""
    names = ["test_schema", "test_faketensor"]
    return [*names, "test_autograd_registration", "test_aot_dispatch_dynamic"] if learn else names


def test_says_what_does_not_fit(make_field):
    field = make_field()
    positions = field.points(5)
    table, weights, layout = field.arguments
    with pytest.raises(ValueError, match=r"weight 1 must be \[outputs, 32\], not \[4, 16\]"):
        native.evaluate_field(table, [weights[0], weights[1][:, :16]], layout, positions)
    with pytest.raises(ValueError, match="has 4 outputs, not 3"):
        native.evaluate_field(table, [weights[0], weights[1][:3]], layout, positions)
    with pytest.raises(ValueError, match="has 4 outputs, not none"):
        native.field_with_normals(table, [], layout, positions)
    with pytest.raises(ValueError, match="positions must be"):
        native.evaluate_field(table, weights, layout, positions[0])
