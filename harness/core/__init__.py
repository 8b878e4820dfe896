"""What crosses processes and files, and knows nobody."""
