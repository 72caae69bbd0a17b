"""Text tasks, encoders and their fine-tuning, and a small language to try them on."""
