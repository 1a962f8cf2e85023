"""Training of networks: a prior, its VAE, a subject."""
