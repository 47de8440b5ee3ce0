"""Metamorphic properties of any candidate: laws that hold for every configuration and weights, without a golden."""
