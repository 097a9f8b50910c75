"""Engines execute denoiser and classifier: torch, OpenVINO, ONNX Runtime."""
