"""The networks of this package's own."""
