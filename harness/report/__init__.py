"""What is shown of a run: a table on the terminal, JSON, JUnit."""
