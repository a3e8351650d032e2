"""Measurements on one GPU, within a few minutes: layers and loss, then whole steps and a training."""
