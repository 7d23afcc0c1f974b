"""What the results say: rank correlations, paired comparisons, and the paper's claims with a verdict each."""
