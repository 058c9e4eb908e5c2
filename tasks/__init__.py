"""What happened: the record of every task, and the only code that writes it."""
