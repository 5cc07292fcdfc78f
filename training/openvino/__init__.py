"""Pipelines as OpenVINO's intermediate representation (IR), which needs no PyTorch to draw."""
