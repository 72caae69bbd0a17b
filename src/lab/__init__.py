"""What the experiments share: data, models, training, results, the command line."""
