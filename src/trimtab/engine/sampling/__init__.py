"""From logits to a token: draws, penalties, grammars."""
