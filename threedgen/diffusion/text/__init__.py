"""Text as a network reads it."""
