"""How the kinds of the toy world are built, a file for each group."""
