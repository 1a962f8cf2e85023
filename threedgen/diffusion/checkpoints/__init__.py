"""Where weights lie, how they are read and written."""
