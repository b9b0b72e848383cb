"""What training computes on a CUDA card in ways of its own: kernels, attention, the head.

Only `trimtab.train` imports this, where tensors lie on such a card.
"""
