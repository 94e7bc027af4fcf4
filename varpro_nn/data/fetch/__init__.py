"""Named data sets: what their files are, where they come from, and how they are checked."""
