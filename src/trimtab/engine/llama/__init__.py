"""Networks of the Llama family: their weights, projections and adapters. Know no requests."""
