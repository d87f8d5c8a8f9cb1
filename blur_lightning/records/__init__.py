"""Records of runs: what tests write, and what is computed from it. No torch is needed."""
