"""Between messages and arrays, one kind of message a file."""
