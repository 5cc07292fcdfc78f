"""LoRA: adapters beside frozen layers, the files that hold them, and files fused into weights."""
