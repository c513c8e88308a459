"""An example of a package that extends sds3d."""
