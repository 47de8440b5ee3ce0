"""One tap against its fence: the noise model, and the statistics of what a tap errs by."""
