"""Trained models in formats of other programs."""
