"""What executes a model: the engine.json contract and the backends behind it."""
