"""Renderers: voxel grids, fields, Gaussians and meshes.

`volume` renders voxel grids, `packed` any radiance field, `splatting` Gaussians and `mesh_differentiable` meshes; each
has a plain-torch reference. `*_numba` are their kernels on a CPU, `*_warp` on a GPU, which `gpu` chooses.
`mesh_zbuffer` and `shading` draw finished meshes.
"""
