"""The command line: one module a command, sizes and messages."""
