"""Answers that come piece by piece: server-sent events, the WebSocket, and taking one up again."""
