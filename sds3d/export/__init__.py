"""Export: arrays in, bytes out. One module a format; `folder.write_exports` writes them all."""
