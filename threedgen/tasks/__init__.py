"""One file per verb of the user; each reads top-down like a story."""
