"""Networks that see or hear; one registered class a file."""
