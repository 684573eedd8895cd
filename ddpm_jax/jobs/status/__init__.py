"""What runs are doing: `reading.py` reads their work directories, `table.py` shows many of them in one table."""
