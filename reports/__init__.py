"""What is answered: tables from the committed results."""
