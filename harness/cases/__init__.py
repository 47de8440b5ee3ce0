"""What is asked of a candidate: presets (a configuration and its weights), cases (what to run on them), and the suite."""
