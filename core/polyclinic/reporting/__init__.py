"""What reports are made of: figures, tables, charts and the page that shows them."""
