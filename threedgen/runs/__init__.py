"""Run folders, checkpoints and resume, events, progress, and many prompts in one go."""
