"""The table of everything miniworld can show: a few lines of placed solids for each kind (see parts.py for the words).

Front is +x, up is +z, a kind fills about one unit from the origin to its farthest point. To add a kind, add an entry to
`KINDS` and a held-out caption to held_out.txt, and look at it; `launch.py vocabulary` then lists it.
"""

from collections.abc import Sequence

from threedgen.data.miniworld.parts import (
    EYE,
    Group,
    Kind,
    Part,
    Wearer,
    ball,
    box,
    cone,
    corners,
    group,
    oval,
    pair,
    post,
    wheel,
    whole,
)


def _quadruped(head: Wearer, *more: Group | Part | Sequence[Part], face: Sequence[Part] = ()) -> tuple[Group, ...]:
    """Body, four legs, and a head with a face on its front and eyes above it; further parts join the head."""
    r = head.radius
    groups = tuple(part for part in more if isinstance(part, Group))
    of_head = [part for part in more if not isinstance(part, Group)]
    muzzle = face or [oval((0.68 * r, 0, -0.2 * r), (0.48 * r, 0.72 * r, 0.6 * r), "face")]
    return (
        group((-0.14, 0, -0.24), oval((0, 0, 0), (0.54, 0.36, 0.34))),
        group((-0.14, 0, -0.64), corners(post((0.30, 0.21, 0), 0.12, 0.24))),
        group((head.x, 0, head.z), ball((0, 0, 0), r), muzzle, _eyes(r), *of_head),
        *groups,
    )


def _eyes(r: float) -> tuple[Part, Part]:
    return pair(ball((0.76 * r, 0.42 * r, 0.48 * r), 0.088, EYE))


def _solid(solid: Part, nose_x: float, nose_z: float, base: bool = False) -> Kind:
    """A solid that has a nose, a ball on its front, when a caption says so."""
    nose = ball((nose_x, 0, nose_z), 0.26, "nose")
    return Kind("solids", whole(solid, nose), small=True, base=base, optional=("nose",))


_CAT, _BEAR, _RABBIT = Wearer(0.32, 0.22, 0.4), Wearer(0.3, 0.24, 0.42), Wearer(0.3, 0.1, 0.38)
_DUCK, _DOG, _ELEPHANT = Wearer(0.28, 0.3, 0.36), Wearer(0.36, 0.24, 0.37), Wearer(0.38, 0.12, 0.36)
_ROBOT, _SNOWMAN = Wearer(0, 0.48, 0.3), Wearer(0, 0.5, 0.27)

KINDS: dict[str, Kind] = {
    "cat": Kind(
        "animals",
        _quadruped(
            _CAT,
            pair(cone((-0.02, 0.24, 0.408), 0.16, 0.2, tilt=("x", -14))),
            group((-0.61, 0, -0.28), post((-0.11, 0, 0.34), 0.085, 0.36, tilt=("y", -18))),
        ),
        _CAT,
        small=True,
    ),
    "bear": Kind(
        "animals",
        _quadruped(
            _BEAR,
            pair(oval((-0.04, 0.3108, 0.3108), (0.11, 0.17, 0.17))),
            group((-0.7, 0, -0.12), ball((0, 0, 0), 0.14)),
        ),
        _BEAR,
    ),
    "rabbit": Kind(
        "animals",
        _quadruped(
            _RABBIT,
            pair(oval((-0.06, 0.1748, 0.532), (0.1, 0.13, 0.36), tilt=("x", -12))),
            group((-0.7, 0, -0.1), ball((0, 0, 0), 0.18, "tail")),
        ),
        _RABBIT,
        small=True,
        defaults={"tail": "white"},
    ),
    "duck": Kind(
        "animals",
        (
            group((-0.1, 0, -0.28), oval((0, 0, 0), (0.6, 0.44, 0.38))),
            group((-0.5, 0, -0.15), cone((-0.18, 0, 0.11), 0.2, 0.26, tilt=("y", -60))),
            group(
                (0.28, 0, 0.3),
                ball((0, 0, 0), 0.36),
                oval((0.216, 0, -0.04), (0.1872, 0.252, 0.2232), "face"),
                cone((0.56, 0, -0.08), 0.16, 0.2, "face", ("y", 90)),
                _eyes(0.36),
            ),
            group((-0.04, 0, -0.74), pair(post((0, 0.18, 0), 0.08, 0.16))),
        ),
        _DUCK,
        small=True,
    ),
    "dog": Kind(
        "animals",
        _quadruped(
            _DOG,
            pair(oval((-0.08, 0.36, 0.02), (0.13, 0.08, 0.28), tilt=("x", 14))),
            group((-0.62, 0, -0.1), post((-0.1, 0, 0.18), 0.07, 0.26, tilt=("y", -35))),
            face=[
                oval((0.36, 0, -0.1), (0.24, 0.19, 0.16), "face"),
                ball((0.58, 0, -0.05), 0.07, EYE),
            ],
        ),
        _DOG,
    ),
    "elephant": Kind(
        "animals",
        (
            group((-0.16, 0, -0.1), oval((0, 0, 0), (0.56, 0.46, 0.44))),
            group((-0.16, 0, -0.58), corners(post((0.3, 0.22, 0), 0.16, 0.28))),
            group(
                (0.38, 0, 0.12),
                ball((0, 0, 0), 0.36),
                pair(oval((-0.06, 0.44, 0.06), (0.07, 0.26, 0.32), "ears", ("z", -20))),
                _eyes(0.36),
                post((0.36, 0, -0.22), 0.12, 0.28, "trunk", ("y", -22)),
                ball((0.45, 0, -0.46), 0.12, "trunk"),
            ),
            group((-0.7, 0, -0.1), post((0, 0, -0.1), 0.04, 0.18)),
        ),
        _ELEPHANT,
    ),
    "robot": Kind(
        "figures",
        (
            group((0, 0, -0.1), box((0, 0, 0), (0.24, 0.36, 0.32)), box((0.25, 0, 0.04), (0.03, 0.24, 0.18), "screen")),
            group(
                (0, 0, 0.48),
                box((0, 0, 0), (0.24, 0.28, 0.22)),
                pair(ball((0.24, 0.13, 0.06), 0.085, EYE)),
                post((0, 0, 0.32), 0.03, 0.12, "dark"),
                ball((0, 0, 0.44), 0.07, "flame"),
            ),
            group((0, 0, -0.06), pair(box((0.02, 0.47, -0.06), (0.1, 0.09, 0.3)))),
            group((0, 0, -0.66), pair(box((0.02, 0.18, 0), (0.14, 0.13, 0.26)))),
        ),
        _ROBOT,
    ),
    "snowman": Kind(
        "figures",
        (
            group((0, 0, -0.5), ball((0, 0, 0), 0.44)),
            group((0, 0, 0.08), ball((0, 0, 0), 0.33), [ball((0.32, 0, z), 0.06, "dark") for z in (-0.1, 0.08)]),
            group(
                (0, 0, 0.5),
                ball((0, 0, 0), 0.27),
                pair(ball((0.21, 0.11, 0.1), 0.065, EYE)),
                cone((0.4, 0, 0), 0.1, 0.2, "nose", ("y", 90)),
            ),
            group((0, 0, 0.14), pair(post((0, 0.44, 0.08), 0.04, 0.2, "brown", ("x", -60)))),
        ),
        _SNOWMAN,
        defaults={"nose": "orange"},
    ),
    "ball": _solid(ball((0, 0, 0), 0.62), 0.68, 0),
    "cube": _solid(box((0, 0, 0), (0.62, 0.62, 0.62)), 0.68, 0, base=True),
    "cylinder": _solid(post((0, 0, 0), 0.62, 0.62), 0.68, 0, base=True),
    "cone": _solid(cone((0, 0, 0), 0.62, 0.62), 0.4196, -0.12),
    "chair": Kind(
        "furniture",
        (
            group(
                (0, 0, -0.12),
                box((0.02, 0, 0), (0.44, 0.42, 0.06)),
                box((0.06, 0, 0.09), (0.38, 0.36, 0.05), "seat"),
            ),
            group((-0.4, 0, -0.1), box((0, 0, 0.46), (0.06, 0.42, 0.46))),
            group((0, 0, -0.5), corners(post((0.36, 0.34, 0), 0.075, 0.34))),
        ),
    ),
    "table": Kind(
        "furniture",
        (
            group((0, 0, 0.3), box((0, 0, 0), (0.62, 0.62, 0.08))),
            group((0, 0, -0.15), corners(box((0.5, 0.5, 0), (0.09, 0.09, 0.4), "legs"))),
        ),
        base=True,
    ),
    "sofa": Kind(
        "furniture",
        (
            group(
                (0, 0, -0.3),
                box((0, 0, 0), (0.4, 0.78, 0.2)),
                pair(box((0.08, 0.33, 0.26), (0.34, 0.31, 0.09), "cushions")),
            ),
            group((-0.34, 0, 0.06), box((0, 0, 0), (0.14, 0.78, 0.4))),
            group((0, 0, -0.16), pair(box((0.02, 0.74, 0), (0.42, 0.12, 0.3)))),
        ),
    ),
    "lamp": Kind(
        "furniture",
        (
            group((0, 0, -0.76), post((0, 0, 0), 0.36, 0.07)),
            group((0, 0, -0.3), post((0, 0, 0), 0.07, 0.5)),
            group((0, 0, 0.4), cone((0, 0, 0.1), 0.6, 0.42, "shade"), ball((0, 0, -0.3), 0.13, "flame")),
        ),
    ),
    "car": Kind(
        "vehicles",
        (
            group((0, 0, -0.2), box((0, 0, 0), (0.88, 0.42, 0.2)), pair(ball((0.86, 0.26, 0.02), 0.1, "lights"))),
            group(
                (-0.16, 0, 0),
                box((0, 0, 0.22), (0.42, 0.36, 0.22)),
                box((0.4, 0, 0.24), (0.04, 0.3, 0.15), "glass"),
            ),
            group((0, 0, -0.38), corners(wheel(0.52, 0.42, 0, 0.22))),
        ),
        defaults={"wheels": "dark", "lights": "white"},
    ),
    "truck": Kind(
        "vehicles",
        (
            group((-0.28, 0, 0.12), box((0, 0, 0), (0.58, 0.42, 0.42))),
            group(
                (0.58, 0, -0.06),
                box((0, 0, 0), (0.26, 0.4, 0.28), "cabin"),
                box((0.26, 0, 0.12), (0.03, 0.32, 0.11), "glass"),
            ),
            group((0, 0, -0.4), corners(wheel(0.54, 0.4, 0, 0.2))),
        ),
        defaults={"wheels": "dark"},
    ),
    "boat": Kind(
        "vehicles",
        (
            group((0, 0, -0.5), box((-0.16, 0, 0), (0.54, 0.34, 0.2)), cone((0.5, 0, 0), 0.34, 0.3, tilt=("y", 90))),
            group((0, 0, -0.3), post((0.06, 0, 0.5), 0.05, 0.62, "brown")),
            group((0, 0, 0.2), box((-0.26, 0, 0.1), (0.27, 0.035, 0.42), "sail")),
        ),
        defaults={"sail": "white"},
    ),
    "plane": Kind(
        "vehicles",
        (
            group((0, 0, 0), oval((0, 0, 0), (0.9, 0.2, 0.2)), oval((0.5, 0, 0.12), (0.2, 0.12, 0.12), "glass")),
            group((0.06, 0, 0), box((0, 0, 0), (0.2, 0.9, 0.04), "wings")),
            group((-0.76, 0, 0.05), box((0, 0, 0), (0.1, 0.36, 0.035), "wings"), box((0, 0, 0.2), (0.11, 0.035, 0.22))),
        ),
    ),
    "rocket": Kind(
        "vehicles",
        (
            group((0, 0, -0.1), post((0, 0, 0), 0.3, 0.5), ball((0.27, 0, 0.2), 0.13, "window")),
            group((0, 0, 0.4), cone((0, 0, 0.27), 0.3, 0.28, "tip")),
            group(
                (0, 0, -0.6),
                pair(box((0, 0.36, 0), (0.05, 0.18, 0.24), "fins")),
                box((-0.36, 0, 0), (0.18, 0.05, 0.24), "fins"),
            ),
            group((0, 0, -0.6), cone((0, 0, -0.08), 0.22, 0.14, "dark")),
        ),
        defaults={"window": "glass"},
    ),
    "tree": Kind(
        "plants",
        (
            group((0, 0, -0.5), post((0, 0, 0), 0.15, 0.42, "trunk")),
            group((0, 0, 0.2), ball((0, 0, 0.1), 0.5), ball((0.2, 0.3, -0.12), 0.32), ball((-0.18, -0.32, -0.1), 0.32)),
        ),
        defaults={"trunk": "brown"},
    ),
    "flower": Kind(
        "plants",
        (
            group(
                (0, 0, -0.4),
                post((0, 0, 0), 0.06, 0.55, "leaf"),
                pair(oval((0, 0.2, -0.1), (0.1, 0.24, 0.06), "leaf", ("x", 30))),
            ),
            group(
                (0.06, 0, 0.36),
                [oval((0, y, z), (0.08, 0.22, 0.22))
                 for y, z in ((0, 0.36), (0.34, 0.11), (0.21, -0.29), (-0.21, -0.29), (-0.34, 0.11))],
                oval((0, 0, 0), (0.05, 0.26, 0.26)),
                oval((0.1, 0, 0), (0.09, 0.2, 0.2), "center"),
            ),
        ),
        defaults={"center": "flame"},
    ),
    "mushroom": Kind(
        "plants",
        (
            group((0, 0, -0.4), post((0, 0, 0), 0.22, 0.4, "stem")),
            group((0, 0, 0.1), cone((0, 0, 0.2), 0.7, 0.34), oval((0, 0, -0.08), (0.7, 0.7, 0.14))),
        ),
        small=True,
        defaults={"stem": "white"},
    ),
    "house": Kind(
        "buildings",
        (
            group(
                (0, 0, -0.34),
                box((0, 0, 0), (0.5, 0.56, 0.36)),
                box((0.5, -0.2, -0.12), (0.05, 0.15, 0.25), "door"),
                box((0.5, 0.24, 0.06), (0.04, 0.14, 0.14), "glass"),
            ),
            group(
                (0, 0, 0),
                box((0, 0, 0.06), (0.42, 0.6, 0.42), "roof", ("y", 45)),
                box((-0.24, 0.3, 0.5), (0.1, 0.1, 0.24), "dark"),
            ),
        ),
        defaults={"door": "brown"},
    ),
    "castle": Kind(
        "buildings",
        (
            group((0, 0, -0.34), box((0, 0, 0), (0.46, 0.46, 0.36)), box((0.46, 0, -0.1), (0.06, 0.18, 0.26), "gate")),
            group((0, 0, -0.2), corners(post((0.46, 0.46, 0), 0.2, 0.5))),
            group((0, 0, 0.3), corners(cone((0.46, 0.46, 0.22), 0.25, 0.22, "roofs"))),
        ),
        defaults={"gate": "brown"},
    ),
    "windmill": Kind(
        "buildings",
        (
            group((0, 0, -0.3), post((0, 0, 0), 0.34, 0.5), box((0.32, 0, -0.28), (0.05, 0.13, 0.22), "brown")),
            group((0, 0, 0.2), cone((0, 0, 0.2), 0.4, 0.22, "roof")),
            group(
                (0.44, 0, 0.22),
                box((0, 0, 0), (0.03, 0.1, 0.66), "blades", ("x", 45)),
                box((0, 0, 0), (0.03, 0.1, 0.66), "blades", ("x", -45)),
                ball((0.02, 0, 0), 0.12, "dark"),
            ),
        ),
        defaults={"blades": "white"},
    ),
    "apple": Kind(
        "food",
        whole(
            oval((0, 0, -0.08), (0.64, 0.64, 0.58)),
            post((0, 0, 0.6), 0.05, 0.2, "brown"),
            oval((0.14, 0.14, 0.66), (0.26, 0.12, 0.07), "leaf", ("z", 45)),
        ),
        small=True,
    ),
    "cake": Kind(
        "food",
        (
            group((0, 0, -0.36), post((0, 0, 0), 0.72, 0.26)),
            group((0, 0, 0.02), post((0, 0, 0), 0.72, 0.12, "top")),
            group((0, 0, 0.14), post((0, 0, 0.24), 0.08, 0.26, "candle"), ball((0, 0, 0.6), 0.11, "flame")),
        ),
        small=True,
        defaults={"top": "white"},
    ),
    "icecream": Kind(
        "food",
        (
            group((0, 0, -0.36), cone((0, 0, 0), 0.38, 0.52, "cone", ("x", 180))),
            group((0, 0, 0.3), ball((0, 0, 0), 0.44), ball((0.0, 0, 0.48), 0.14, "cherry")),
        ),
        defaults={"cone": "tan"},
    ),
    "hammer": Kind(
        "tools",
        (
            group((0, 0, -0.3), post((0, 0, 0), 0.12, 0.56, "handle")),
            group(
                (0, 0, 0.42),
                box((0.06, 0, 0), (0.3, 0.2, 0.2)),
                box((0.46, 0, 0), (0.12, 0.25, 0.25)),
                cone((-0.46, 0, 0), 0.18, 0.26, tilt=("y", -90)),
            ),
        ),
        defaults={"handle": "brown"},
    ),
    "mug": Kind(
        "tools",
        (
            group((-0.1, 0, 0), post((0, 0, -0.04), 0.5, 0.56), post((0, 0, 0.5), 0.42, 0.04, "dark")),
            group(
                (0.4, 0, -0.02),
                box((0.16, 0, 0.26), (0.24, 0.09, 0.08), "handle"),
                box((0.16, 0, -0.26), (0.24, 0.09, 0.08), "handle"),
                box((0.36, 0, 0), (0.08, 0.09, 0.34), "handle"),
            ),
        ),
        small=True,
    ),
    "teapot": Kind(
        "tools",
        (
            group((-0.04, 0, -0.16), oval((0, 0, 0), (0.56, 0.56, 0.46))),
            group((-0.04, 0, 0.24), oval((0, 0, 0.02), (0.34, 0.34, 0.14), "lid"), ball((0, 0, 0.22), 0.11, "lid")),
            group((0.4, 0, -0.1), post((0.2, 0, 0.1), 0.1, 0.3, "spout", ("y", 50))),
            group(
                (-0.5, 0, -0.1),
                box((-0.14, 0, 0.2), (0.2, 0.07, 0.06)),
                box((-0.14, 0, -0.16), (0.2, 0.07, 0.06)),
                box((-0.32, 0, 0.02), (0.06, 0.07, 0.24)),
            ),
        ),
        small=True,
    ),
}  # fmt: skip
