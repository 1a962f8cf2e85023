"""Verbs that make no run: weights, meshes to training pictures, the vocabulary, the machine."""
