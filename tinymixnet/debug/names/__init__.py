"""Decide which tensor of a dump is which layer, by names, order and shapes."""
