"""What a request passes before its route: trace, key, size, and the fit of its body."""
