"""OpenAI's API: its routes, what its clients send and read, and tools in a dialogue."""
