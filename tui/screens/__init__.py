"""The areas of the dashboard, and what opens from them."""
