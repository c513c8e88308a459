"""`python -m sds3d` runs the `sds3d` command."""

from sds3d.cli.main import main

main()
