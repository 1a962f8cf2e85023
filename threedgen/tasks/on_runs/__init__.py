"""Verbs on the folder of a run that is there."""
