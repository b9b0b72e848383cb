"""Where messages become tokens and tokens become text; nowhere else do they."""
