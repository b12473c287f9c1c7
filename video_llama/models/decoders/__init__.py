"""Language models that speak; one registered class a file."""
