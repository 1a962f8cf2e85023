"""threedgen: text to 3D. Start reading at `launch.py`, then `threedgen/cli.py`."""

__version__ = "0.1.0"
