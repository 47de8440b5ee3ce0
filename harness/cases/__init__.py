"""What is asked of a candidate: presets (a configuration and its weights), the cases run on them, and the suite."""
