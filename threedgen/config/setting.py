"""A setting: a field with its range, and whether a run may go on with another value, beside it."""

import math
from dataclasses import field
from typing import Any


def setting(default: Any, low: float = -math.inf, high: float = math.inf, *, incidental: bool = False) -> Any:
    """A field with what is to be known of it beside its value.

    default: or a function that makes it; low, high: of a number, of each in a tuple, or of a schedule's two ends, both
    allowed; incidental: it changes how a run is carried out, never what comes out: a run may go on with another.
    """
    metadata = {"range": (low, high), "incidental": incidental}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)
