"""Numerical conformance of Grok-1 ports; the four folders beside this one are its packages."""
