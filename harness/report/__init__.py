"""What is shown of a run: a table on the terminal, a page, JSON, JUnit, and what GitHub Actions shows."""
