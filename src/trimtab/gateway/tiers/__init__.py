"""Who answers when something fails: tiers, breakers, one retry budget."""
