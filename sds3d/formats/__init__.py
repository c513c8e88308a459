"""File formats: readers and writers of meshes, splats, pictures and video."""
