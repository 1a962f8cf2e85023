"""Every setting: `schema.py` has the dataclasses, `load.py` reads recipes and key=value."""
