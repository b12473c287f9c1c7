"""Encoders, bridges, decoders, and the one model made of them."""
