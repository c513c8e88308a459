"""Score-distillation rules, one file each; timestep schedules, and transforms of gradients."""
