"""The stores as users see them."""
