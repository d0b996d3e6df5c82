"""The doors of child processes: engines and the quantization worker."""
