"""What every backend promises, one suite for all of them."""
