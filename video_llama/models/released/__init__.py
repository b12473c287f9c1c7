"""Key maps of published checkpoints; tables only."""
