"""What is trained or measured with a model that is handed in."""
