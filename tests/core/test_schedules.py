import pytest

from threedgen.config.schedules import Schedule, Shape, ShapedSchedule, value_at


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(-1.0, 10.0), (0.0, 10.0), (0.25, 10.0), (0.5, 6.0), (0.375, 8.0), (0.75, 2.0), (1.0, 2.0), (9.0, 2.0)],
)
def test_linear_between_the_ends_and_constant_outside(fraction, expected):
    schedule = Schedule(start=10.0, end=2.0, from_fraction=0.25, to_fraction=0.75)
    assert value_at(schedule, fraction) == pytest.approx(expected, abs=1e-12)


def test_equal_fractions_are_a_step():
    schedule = Schedule(start=1.0, end=5.0, from_fraction=0.5, to_fraction=0.5)
    assert [value_at(schedule, f) for f in (0.0, 0.499, 0.5, 1.0)] == [1.0, 1.0, 5.0, 5.0]


def test_the_default_is_zero_everywhere():
    assert {value_at(Schedule(), fraction) for fraction in (0.0, 0.3, 1.0)} == {0.0}


@pytest.mark.parametrize(
    ("shape", "halfway"), [(Shape.linear, 3.5), (Shape.power, 2 + 3 / 8), (Shape.cosine, 3.5), (Shape.step, 5.0)]
)
def test_shapes_lie_between_the_fractions(shape, halfway):
    schedule = ShapedSchedule(2.0, 5.0, 0.2, 0.6, shape, exponent=3.0)
    assert [value_at(schedule, fraction) for fraction in (0.0, 0.2, 0.6, 1.0)] == [2.0, 2.0, 5.0, 5.0]
    assert value_at(schedule, 0.4) == pytest.approx(halfway)
    values = [value_at(schedule, i / 100) for i in range(101)]
    assert values == sorted(values)
    if shape is Shape.step:
        assert value_at(schedule, 0.399) == 2.0
