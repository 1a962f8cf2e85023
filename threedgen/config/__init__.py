"""Every setting: `schema.py` has `Config`, a file a theme its sections, `load.py` reads recipes and key=value."""
