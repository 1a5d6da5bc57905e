"""Internal tools that make JAX fast and safe; pgjax makes public only `log_probs` and `checked`."""
