"""What is computed: data, models, quantizers, training. The only home of torch."""

import os

# A product of matrices must not depend on where in memory they lie, or a model's neighbours would change its bits. MKL
# promises that only when asked before its first call: its Developer Guide, "Conditional Numerical Reproducibility".
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
