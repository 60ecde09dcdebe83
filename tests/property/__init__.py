"""Laws checked on generated values and histories."""
