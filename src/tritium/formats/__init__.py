"""Weight files, read with distrust: safetensors, the ternary packings of Hugging Face, our own directory."""
