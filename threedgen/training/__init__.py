"""How networks are trained, whatever they are: one loop, its learning rates, its moving average, its log."""
