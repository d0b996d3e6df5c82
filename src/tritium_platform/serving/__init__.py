"""Models, deployments, inference and quantization for tenants."""
