"""Against the truth of miniworld: held-out captions and ablations."""
