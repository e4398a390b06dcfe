"""`python -m ebbtide` is the same as the `ebbtide` command."""

from ebbtide.cli.main import main

main()
