"""Does it learn what it should? A campaign, and no part of the tests: it takes minutes."""
