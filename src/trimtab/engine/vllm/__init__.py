"""A vLLM server behind the engine's face: asked over its own routes, or started as a child."""
