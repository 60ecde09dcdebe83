"""What only the Redis backend has: real servers that die, freeze and refuse, and a cluster that fails over."""
