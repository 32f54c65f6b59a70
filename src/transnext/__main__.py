"""`python -m transnext`, the same as `transnext`."""

from transnext.cli import main

main()
