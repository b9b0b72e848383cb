"""What is told of requests: metrics, spans, traces, the words that a project wants kept, and
who was refused before the books opened.
"""
