"""Measure how often a network is right on labelled photos."""
