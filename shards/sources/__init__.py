"""What a build takes as input: folders, lists, frames, arrays and the data sets that the field uses."""
