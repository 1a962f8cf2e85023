"""Files of weights: where each tensor of another layout belongs. Knows no network of ours."""
