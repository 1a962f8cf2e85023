"""The ground floor: errors, seeded randomness, safe file writing."""
