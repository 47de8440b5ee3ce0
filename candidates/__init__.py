"""The ports and engines that the harness judges, one module or package each: adding one is adding a file."""
