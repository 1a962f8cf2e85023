"""What is optimised: scenes that render cameras. No diffusion model is known here."""
