"""What runs in the image: HTTP server, model wrapper, in-flight batching, engines, kernels."""
