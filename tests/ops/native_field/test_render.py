"""The fused rendering against its twin: losses on every output, termination, pieces, tails and threads."""

import pytest
import torch

from threedgen.ops import RaySamples, native, plain
from threedgen.ops.plain.compositing import transmittance

SHAPES = [(4, 8, (32,)), (16, 2, (64, 64)), (4, 4, (16,)), (3, 3, (20,)), (1, 1, (8,)), (2, 2, ())]


def rays_through(field, counts, seed=0):
    """Rays through the cube with these numbers of samples, of uneven lengths."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.as_tensor(counts)
    num_rays, radius = len(counts), field.layout.radius
    ends = (torch.rand(2, num_rays, 3, generator=generator) * 2 - 1) * radius
    directions = torch.nn.functional.normalize(ends[1] - ends[0] + 1e-3, dim=-1)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    rays = torch.repeat_interleave(counts)
    place = (torch.arange(len(rays)) - offsets[rays]) / counts.clamp(min=1)[rays]
    length = (ends[1] - ends[0]).norm(dim=-1)[rays]
    t_starts = place * length
    t_ends = t_starts + (0.5 + 0.5 * torch.rand(len(rays), generator=generator)) * length / counts[rays]
    return ends[0], directions, RaySamples(t_starts, t_ends, rays, offsets)


def some_rays(field, num_rays=300, longest=40):
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, longest, (num_rays,), generator=generator)
    counts[::3] = 0
    return rays_through(field, counts)


def arriving(samples, num_rays):
    generator = torch.Generator().manual_seed(5)
    shapes = [(num_rays, 3), (num_rays,), (num_rays,), (len(samples.t_starts),)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def exact_render(exact, origins, directions, samples, min_transmittance=0.0):
    """The definition in float64, at the kernels' rounded features; a sample that too little light reaches is masked."""
    ray = samples.ray_indices
    density, rgb, _ = exact.exact(origins[ray] + samples.t_mids[:, None] * directions[ray])
    t_starts, t_ends = samples.t_starts.double(), samples.t_ends.double()
    passing = transmittance((density * (t_ends - t_starts)).detach(), ray, samples.offsets)
    reached = passing >= min_transmittance
    seen = plain.composite(density * reached, rgb, t_starts, t_ends, ray, samples.offsets)
    return seen, reached


@pytest.mark.parametrize("min_transmittance", [0.0, 0.6])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_twin(shape, min_transmittance, make_field, assert_near):
    field = make_field(*shape)
    origins, directions, samples = some_rays(field)
    grads = arriving(samples, len(origins))
    ours = native.render_field(*field.arguments, origins, directions, samples, min_transmittance)
    exact = field.double()
    theirs, reached = exact_render(exact, origins, directions, samples, min_transmittance)
    assert min_transmittance == 0 or 0.2 < reached.double().mean() < 0.8
    assert_near(ours, theirs, 1e-5)
    assert_near(field.gradients(ours, grads), exact.gradients(theirs, grads), 5e-4)
    if min_transmittance:
        assert (ours.weights[~reached] == 0).all() and (ours.weights[reached] > 0).all()
    else:  # against the definition itself, with features that are not rounded
        arguments = origins.double(), directions.double(), RaySamples(*(x.double() for x in samples[:2]), *samples[2:])
        assert_near(ours, plain.render_field(*exact.arguments, *arguments), 1e-3)


@pytest.mark.parametrize("index", range(4))
def test_a_loss_on_one_output_alone(index, make_field, assert_near):
    """The others' gradients are absent then, not zero. 3: the weights of single samples."""
    field = make_field()
    origins, directions, samples = some_rays(field)
    grad = arriving(samples, len(origins))[index]
    ours = native.render_field(*field.arguments, origins, directions, samples)[index]
    exact = field.double()
    theirs = exact_render(exact, origins, directions, samples)[0][index]
    assert_near(field.gradients([ours], [grad])[:1], exact.gradients([theirs], [grad])[:1], 5e-4)


def test_a_loss_on_a_single_sample(make_field, assert_near):
    """Exact only if what lies behind a sample enters its gradient."""
    field = make_field()
    origins, directions, samples = rays_through(field, [5, 0, 120])
    ours = native.render_field(*field.arguments, origins, directions, samples)
    exact = field.double()
    theirs, _ = exact_render(exact, origins, directions, samples)
    for sample in (0, 4, 5, 60, 124):
        a = torch.autograd.grad(ours.weights[sample], field.parameters[:2], retain_graph=True)
        b = torch.autograd.grad(theirs.weights[sample], exact.parameters[:2], retain_graph=True)
        assert_near(a, b, 1e-4)


def test_without_gradients_nothing_is_kept_and_nothing_changes(make_field):
    field = make_field()
    for min_transmittance in (0.0, 0.6):
        arguments = *some_rays(field), min_transmittance
        learning = native.render_field(*field.arguments, *arguments)
        with torch.no_grad():
            looking = native.render_field(*field.arguments, *arguments)
        assert not looking.rgb.requires_grad
        assert all(torch.equal(a, b) for a, b in zip(learning, looking, strict=True))


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0], [1], [0, 0, 257, 0], [5000], [1] * 257])
def test_few_rays_and_long_ones(counts, make_field, assert_near):
    field = make_field()
    origins, directions, samples = rays_through(field, torch.tensor(counts, dtype=torch.long))
    exact = field.double()
    for min_transmittance in (0.0, 0.6):
        ours = native.render_field(*field.arguments, origins, directions, samples, min_transmittance)
        theirs, _ = exact_render(exact, origins, directions, samples, min_transmittance)
        assert_near(ours, theirs, 1e-4)
        grads = arriving(samples, len(counts))
        assert_near(field.gradients(ours, grads), exact.gradients(theirs, grads), 1e-3)


def test_every_tail_of_a_tile(make_field, assert_near, threads):
    """n samples on one ray, and on many: in a tile's tail, and each piece of work has one."""
    field = make_field(2, 8, (16,))
    exact = field.double()
    for n in [*range(98), 191, 192, 193]:
        for counts in ([n], [n // 3, 0, n - n // 3]):
            origins, directions, samples = rays_through(field, counts, seed=n)
            grads = arriving(samples, len(counts))
            results = []
            for num_threads in (1, 2):
                threads(num_threads)
                ours = native.render_field(*field.arguments, origins, directions, samples)
                results.append([*ours, *field.gradients(ours, grads)])
            threads(1)
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
            theirs, _ = exact_render(exact, origins, directions, samples)
            assert_near(results[0], [*theirs, *exact.gradients(theirs, grads)], 2e-4)


@pytest.mark.parametrize("min_transmittance", [0.0, 0.6])
def test_is_bitwise_equal_for_every_number_of_threads(min_transmittance, make_field, threads):
    for shape in ((4, 8, (32,)), (16, 2, (32, 32))):
        field = make_field(*shape)
        origins, directions, samples = some_rays(field, 2000)
        grads, results = arriving(samples, 2000), []
        for num_threads in (1, 2, 3, 2):
            threads(num_threads)
            ours = native.render_field(*field.arguments, origins, directions, samples, min_transmittance)
            results.append([*ours, *field.gradients(ours, grads)])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_two_steps_at_once_keep_apart(make_field):
    """Buffers are used again, but not while a graph still holds them."""
    field = make_field()
    batches = [some_rays(field, num_rays, 60) for num_rays in (2000, 1900)]
    grads = [arriving(batch[2], len(batch[0])) for batch in batches]

    def render(index):
        return native.render_field(*field.arguments, *batches[index])

    alone = [field.gradients(render(index), grads[index]) for index in (0, 1)]
    seen = [render(index) for index in (0, 1)]
    together = [field.gradients(seen[index], grads[index]) for index in (0, 1)]
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("count", [0, 1, 97])
def test_is_registered_as_torch_wants_it(count, make_field):
    field = make_field(2, 4, (16,))
    layout = field.layout
    numbers = [layout.radius, layout.blob_density, layout.blob_radius, layout.density_scale]
    origins, directions, samples = rays_through(field, [count, 0])
    arguments = field.table, field.weights, layout.grid.layout, numbers, origins, directions
    packed = samples.t_starts, samples.t_ends, samples.offsets
    torch.library.opcheck(torch.ops.threedgen.render_field, (*arguments, *packed, 0.1, True))


def test_says_what_does_not_fit(make_field):
    field = make_field()
    origins, directions, samples = rays_through(field, [3, 4])
    with pytest.raises(ValueError, match="2 origins need as many directions"):
        native.render_field(*field.arguments, origins, directions[:1], samples)
    with pytest.raises(ValueError, match="one more offset"):
        native.render_field(*field.arguments, origins, directions, samples._replace(offsets=samples.offsets[1:]))
