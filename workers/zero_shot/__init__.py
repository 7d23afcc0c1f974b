"""What is computed from a trained model without data: images that batch norm takes for its own."""
