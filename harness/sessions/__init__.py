"""The jobs that a person starts: a run, a capture, a comparison of two."""
