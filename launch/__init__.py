"""Starting things: the reelkin command, doctor, the demo."""
