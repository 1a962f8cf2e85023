"""Mesh files of any origin, and posed pictures of them."""
