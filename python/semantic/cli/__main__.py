"""`python -m semantic.cli` is the command `semantic`."""

from semantic.cli.main import main

main()
