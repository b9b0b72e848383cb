"""An engine in a process of its own: its frames, its server, and the client on the other side."""
