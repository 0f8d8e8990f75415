"""Features in, a trained video model out: recipes, queue, mining, losses, checkpoints, the loop."""
