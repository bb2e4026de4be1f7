"""What bench/run makes of samples: figures held against targets, a table, JSON, a page."""
