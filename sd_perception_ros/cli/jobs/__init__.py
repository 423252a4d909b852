"""What the commands that need torch do once their arguments are read: one file each."""
