"""Run a model: device, number format, CUDA graphs, torch.compile, ONNX Runtime, OpenVINO."""
