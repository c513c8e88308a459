"""Score-distillation rules, one file each."""
