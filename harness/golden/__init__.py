"""Golden sets: their manifest, how they are written, read and audited."""
