"""What is computed: data, models, quantizers, training. The only home of torch."""
