"""Renderers: voxel grids, fields, Gaussians and meshes.

`volume` renders voxel grids, `packed` any radiance field, `splatting` Gaussians and `mesh_differentiable` meshes; each
has a plain-torch reference. `*_numba` are their kernels on a CPU, `*_warp` on a GPU; `gpu` chooses those. `mesh_zbuffer`
and `shading` draw finished meshes.
"""
