"""Readers of data sets, and the way from their records to batches."""
