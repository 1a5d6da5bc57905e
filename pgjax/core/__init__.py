"""What makes JAX fast and safe here; nothing in this folder is a public name."""
