"""3D representations that can be optimised."""
