"""Stages between an encoder and the decoder; one registered class a file."""
