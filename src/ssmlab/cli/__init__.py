"""The command line: one module a command. Heavy imports are inside functions, so that `--help` answers at once."""
